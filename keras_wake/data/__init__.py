"""Checks of what users pass, shared by `fit`, evaluation and attacks.

In the order in which they are made:

- `classifier`: the model, when it is wrapped or attacked;
- `batches`: the data set (does it end, what does it yield), and each batch;
- `arrays`: one array of images, labels or sample weights: dtype and shape;
- `faults`: the values, counted within the compiled step and raised after it.

`sharding` divides batches among processes, and devices of JAX.
"""

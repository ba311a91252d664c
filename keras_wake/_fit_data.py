"""What can be said of the data of `fit` before a batch is taken.

An empty data set is refused before the first step; the form of the labels
decides whether a step has to be compiled again.
"""

from typing import Any

from keras_wake import _inputs


def label_spec(x: Any, y: Any) -> Any:
    """Shape and dtype of one label, where they are known without a batch.

    A compiled step that is given labels of another form drops what it knew
    of their shape instead of being compiled again.
    """
    if y is None:
        spec = getattr(x, "element_spec", None)
        y = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not hasattr(y, "shape") or not hasattr(y, "dtype"):
        return None
    return str(y.shape[1:]), _inputs.number_type(y)


def check_not_empty(data: Any) -> None:
    """Refuses data of which it is known that there are none."""
    if isinstance(data, (tuple, list)) and data:
        data = data[0]
    size = None
    if hasattr(data, "cardinality"):
        size = int(data.cardinality())
    elif hasattr(data, "shape"):
        size = data.shape[0]
    if size == 0:
        raise ValueError(
            "The data set is empty: it has no images. Received: "
            f"{type(data).__name__} of size 0."
        )

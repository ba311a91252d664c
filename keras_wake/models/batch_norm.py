"""Batch-norm statistics from one pass over data."""

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.data.batches import check_ends
from keras_wake.data.batches import iterate_batches
from keras_wake.data.batches import iterate_checked
from keras_wake.data.classifier import image_shape
from keras_wake.data.classifier import refuse_wake_model
from keras_wake.utils.types import Dataset


def reestimate_batch_norm(
    network: keras.Model,
    data: Dataset,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Sets batch-norm statistics to their mean over one pass over `data`.

    An average of weights needs this (Izmailov et al. 2018): no training step
    has estimated statistics for it. Each batch counts by its size. Weights do
    not change, and if anything fails, the statistics do not either.

    Args:
        network: `keras.Model`; one without batch norm is left as it is.
        data: Training images: a pair of arrays (x, y), or anything that
            yields such batches.
        bounds: Smallest and largest pixel value. Defaults to `(0.0, 1.0)`.

    Raises:
        TypeError: If `network` is no `keras.Model`.
        ValueError: If `data` is empty or never ends, or an image is NaN or
            outside the bounds.

    Example:

    ```python
    network = kw.models.PreActResNet18()
    x = np.random.uniform(size=(256, 32, 32, 3)).astype("float32")
    kw.models.reestimate_batch_norm(network, (x, np.zeros(256)))
    ```
    """
    if not isinstance(network, keras.Model):
        raise TypeError(
            "`network` must be a `keras.Model`. Received: "
            f"network={network!r} (of type {type(network).__name__})."
        )
    refuse_wake_model(network)
    if backend.buffers(network):
        raise ValueError(
            f"The network {network.name!r} holds a PyTorch module with its "
            "own statistics, which cannot be estimated anew. Take Keras's "
            "`BatchNormalization`."
        )
    check_ends(data)
    layers = batch_norm_layers(network)
    if not layers:
        return
    statistics = [v for n in layers for v in (n.moving_mean, n.moving_variance)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            # With momentum 0 the statistics after a call are the batch's own.
            layer.momentum = 0.0
        means = _means(network, data, bounds, statistics)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    for variable, mean in zip(statistics, means, strict=True):
        variable.assign(mean)


def _means(
    network: keras.Model,
    data: Dataset,
    bounds: tuple[float, float],
    statistics: list[keras.Variable],
) -> list[np.ndarray]:
    """The mean over all images of what the variables hold after a batch."""
    sums = [np.zeros(variable.shape, "float64") for variable in statistics]
    images, shape = 0, image_shape(network)
    # No labels are looked at: each image names its only class.
    labelled = (
        (x, np.zeros(len(x), "int32"))
        for x, _ in iterate_batches(data, shape=shape)
    )
    # Also the random states, which go on from batch to batch.
    state = {id(v): backend.own_value(v) for v in network.variables}
    for x, _ in iterate_checked(labelled, 1, bounds, shape=shape):
        # Each of several processes computes by itself, and changes nothing.
        pairs = [(v, state[id(v)]) for v in network.variables]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            backend.without_gradient(lambda x=x: network(x, training=True))
        for variable in network.variables:
            state[id(variable)] = scope.get_current_value(variable)
        images += len(x)
        for total, variable in zip(sums, statistics, strict=True):
            total += len(x) * ops.convert_to_numpy(state[id(variable)])
    return [total / images for total in sums]


def batch_norm_layers(
    network: keras.Model,
) -> list[keras.layers.BatchNormalization]:
    """The batch-norm layers of a network, at any depth."""
    return [
        layer
        for layer in keras_compat.flatten_layers(network)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]

"""Batch-norm statistics from one pass over data."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import _batches
from keras_wake import _inputs
from keras_wake import backend


def reestimate_batch_norm(network: keras.Model, data: Any) -> None:
    """Sets batch-norm statistics to their mean over one pass over `data`.

    For weights that no training step has seen, such as an average of weights
    (Izmailov et al. 2018, stochastic weight averaging). Each batch counts by
    its size. Weights stay as they are.

    Args:
        network: `keras.Model`; one without batch norm is left as it is.
        data: Pair of arrays (x, y), or anything that yields batches (images,
            labels): the training images.

    Raises:
        ValueError: If `data` is empty.

    Example:

    ```python
    network = keras_wake.models.PreActResNet18()
    x = np.random.uniform(size=(256, 32, 32, 3)).astype("float32")
    keras_wake.models.reestimate_batch_norm(network, (x, np.zeros(256)))
    ```
    """
    layers = batch_norm_layers(network)
    if not layers:
        return
    statistics = [v for n in layers for v in (n.moving_mean, n.moving_variance)]
    sums = [np.zeros(v.shape, "float64") for v in statistics]
    momenta = [layer.momentum for layer in layers]
    images = 0
    try:
        for layer in layers:
            # With momentum 0 the statistics after a call are the batch's own.
            layer.momentum = 0.0
        for x, _ in _batches.batches(data):
            x = _inputs.check_images(ops.convert_to_tensor(x))
            network(x, training=True)
            images += x.shape[0]
            for total, variable in zip(sums, statistics, strict=True):
                total += x.shape[0] * backend.to_numpy(variable)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    for total, variable in zip(sums, statistics, strict=True):
        variable.assign(total / images)


def batch_norm_layers(network: keras.Model) -> list[Any]:
    """The batch-norm layers of a network, at any depth."""
    return [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]

"""The network that the tests of attribution look at."""

import keras
import numpy as np
import pytest

CLASSES, MAPS = 4, 5


@pytest.fixture
def network():
    """A convolution without padding, ReLU, mean over the pixels, a head."""
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            keras.layers.Conv2D(MAPS, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def numpy_vectors(network):
    """Computes g(x) ⊙ W[y] of every sample in NumPy, float64."""

    def compute(x, y):
        kernel, bias = network.get_layer("conv").get_weights()
        windows = np.lib.stride_tricks.sliding_window_view(
            x.astype("float64"), (3, 3), axis=(1, 2)
        )
        maps = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
        features = np.maximum(maps + bias, 0).mean(axis=(1, 2))
        return features * network.get_layer("head").get_weights()[0].T[y]

    return compute

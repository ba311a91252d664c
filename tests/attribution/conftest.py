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

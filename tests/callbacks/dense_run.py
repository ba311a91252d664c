"""A small network on small images, for tests of what a callback does."""

import keras
import numpy as np

import keras_wake as kw

SHAPE = (4, 4, 1)
PGD = kw.attacks.PGD(epsilon=0.1, steps=2, random_start=False)


def data(seed=0, count=21):
    rng = np.random.default_rng(seed)
    x = rng.random((count, *SHAPE), np.float32)
    return x, np.arange(count, dtype="int32") % 3


def wake(attack=PGD, policy=None):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="elu", dtype=policy),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )
    model = kw.WakeModel(classifier, attack, eval_attack=attack)
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9))
    return model


def fit(model, callbacks, epochs=4, **kwargs):
    return model.fit(
        *data(), epochs=epochs, verbose=0, callbacks=callbacks, **kwargs
    ).history

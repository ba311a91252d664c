"""A network of two layers under PGD, for tests of what a callback does."""

import keras
import small

import keras_wake as kw

PGD = kw.attacks.PGD(epsilon=0.1, steps=2, random_start=False)


def data(seed=0, count=21):
    return small.data(count, seed)


def wake(attack=PGD, policy=None):
    network = small.network(
        lambda: [keras.layers.Dense(8, activation="elu", dtype=policy)]
    )
    optimizer = keras.optimizers.SGD(0.3, momentum=0.9)
    return small.wake(network, attack, optimizer)


def fit(model, *callbacks, epochs=4, **arguments):
    """Trains on `data()`; the logs of all epochs."""
    arguments = {"count": 21, "epochs": epochs, **arguments}
    return small.fit(model, *callbacks, **arguments).history

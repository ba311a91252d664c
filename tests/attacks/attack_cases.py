"""Attacks that take little time, and a network for images of any shape."""

import numpy as np
from keras import ops

from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square


def quick_attacks(norm, epsilon, **settings):
    return [
        PGD(norm, epsilon, steps=4, **settings),
        PGD(norm, epsilon, epsilon, 2, random_start=False, **settings),
        APGD(norm, epsilon, steps=6, **settings),
        APGD(norm, epsilon, steps=6, loss="dlr", **settings),
        APGD(norm, epsilon, steps=6, loss="dlr_targeted", **settings),
        FAB(norm, epsilon, steps=5, **settings),
        Square(norm, epsilon, queries=15, **settings),
    ]


def tiny_network(features, classes, seed):
    """A function of images of any shape, with gradients of any size."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(features, 4)).astype("float32") * 3
    second = rng.normal(size=(4, classes)).astype("float32") * 3

    def network(x, training=False):
        x = ops.reshape(x, (-1, features))
        return ops.matmul(ops.tanh(ops.matmul(x, first)), second)

    return network

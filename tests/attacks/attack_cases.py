"""Attacks that take little time, and a network for images of any shape."""

import keras
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


class SmoothNetwork:
    """tanh(x A) B of flat pixels: in NumPy, and called, in `keras.ops`."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def logits(self, x):
        return np.tanh(x @ self.first) @ self.second

    def gradient(self, x, weights):
        """Of the weighted sum of the logits of one image, by its pixels."""
        slope = 1 - np.tanh(x @ self.first) ** 2
        return self.first @ ((self.second @ weights) * slope)

    def __call__(self, x, training=False):
        first, second = (
            ops.convert_to_tensor(weight, "float32")
            for weight in (self.first, self.second)
        )
        x = ops.reshape(x, (-1, len(self.first)))
        return ops.matmul(ops.tanh(ops.matmul(x, first)), second)


def tiny_network(features, classes, seed):
    """A function of images of any shape, with gradients of any size."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(features, 4)) * 3
    return SmoothNetwork(first, rng.normal(size=(4, classes)) * 3)


def linear_classifier(kernel, bias):
    """Logits x W + b of flat pixels, as a Keras model."""
    model = keras.Sequential(
        [keras.Input((kernel.shape[0],)), keras.layers.Dense(len(bias))]
    )
    model.set_weights([kernel, bias])
    return model


def norms(delta, norm):
    """The size of each perturbation, in float64."""
    flat = np.reshape(delta, (len(delta), -1)).astype("float64")
    return np.linalg.norm(flat, 2 if norm == "l2" else np.inf, axis=1)

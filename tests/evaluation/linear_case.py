"""A linear classifier, whose robust accuracy is known, and its best attack."""

import keras
import numpy as np
from keras import ops

from keras_wake import evaluation
from keras_wake.attacks import PGD
from keras_wake.attacks import StagedAttack

SHAPE = (4, 4, 1)


def report_of(classifier, samples, *attacks, **options):
    """`autoattack` with a list of attacks; by default silent and unchecked."""
    options = {"verbose": 0, "checks": False, **options}
    return evaluation.autoattack(
        classifier, samples, attacks=list(attacks), **options
    )


def with_function(function, shape=SHAPE):
    """A classifier of images that a function computes, with layers or ops."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def linear_model(classes=3, seed=0, scale=1.0):
    """Random weights, with biases by which every class is predicted."""
    rng = np.random.default_rng(seed)
    weights = scale * rng.normal(size=(16, classes))
    layers = [keras.layers.Flatten(), keras.layers.Dense(classes)]
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    model.set_weights([weights, -0.5 * weights.sum(axis=0)])
    return model


def data(model, count=60, wrong=6, seed=1):
    """Random images with the predicted classes; the last ones are wrong."""
    x = np.random.default_rng(seed).random((count, *SHAPE), np.float32)
    logits = ops.convert_to_numpy(model(x))
    y = logits.argmax(axis=1)
    y[count - wrong :] = (y[count - wrong :] + 1) % logits.shape[1]
    return x, y.astype("int32")


def smallest_margins(model, x, y, epsilon):
    """min over δ and t of z_y − z_t, for ‖δ‖∞ ≤ ε and x + δ in [0, 1].

    A linear function is smallest where each pixel goes as far as it may.
    """
    kernel, bias = map(np.float64, model.get_weights())
    # Axes: images, pixels, classes t.
    flat = np.reshape(x, (len(x), -1, 1)).astype("float64")
    slopes = kernel.T[y][:, :, None] - kernel
    worst = np.clip(flat - epsilon * np.sign(slopes), 0, 1)
    margins = (worst * slopes).sum(axis=1) + bias[y][:, None] - bias
    margins[np.arange(len(x)), y] = np.inf
    return margins.min(axis=1)


class Noise(keras.layers.Layer):
    """Adds noise in inference as well."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x):
        noise = keras.random.normal(ops.shape(x), seed=self.generator)
        return x + self.size * noise


class BestStep(StagedAttack):
    """The best attack on `linear_model`: one step towards each class.

    Stage t goes to the class that is t + 1 further than the label.
    """

    def stages_for(self, num_classes):
        return num_classes - 1

    def passes(self, num_classes):
        return 0, 1

    def run_stage(self, classifier, x, labels, seed, stage):
        kernel = ops.convert_to_tensor(classifier.layers[-1].kernel)
        classes = labels.shape[-1]
        places = (ops.argmax(labels, axis=-1) + stage + 1) % classes
        target = ops.cast(
            ops.equal(places[:, None], ops.arange(classes)), "float32"
        )
        slope = ops.matmul(target - labels, ops.transpose(kernel))
        return self.epsilon * ops.sign(ops.reshape(slope, ops.shape(x)))


class NoSteps(StagedAttack):
    """Returns what it is given, and counts how often it is traced."""

    def __init__(self, stages=1, **threat):
        super().__init__(**threat)
        self.stages = stages
        self._traces = []

    def stages_for(self, num_classes):
        return self.stages

    def passes(self, num_classes):
        return 1, 1

    def run_stage(self, classifier, x, labels, seed, stage):
        self._traces.append(x.shape[0])
        return ops.zeros_like(x)

    def get_config(self):
        return {**super().get_config(), "stages": self.stages}


class OwnConstructor(PGD):
    """Which cannot be made again from its configuration."""

    def __init__(self):
        super().__init__(epsilon=0.06, steps=2)

"""The small network, images and runs that many tests share.

`tests/` is on the path of every test: `from small import wake`.
"""

import subprocess
import sys

import keras
import numpy as np

import keras_wake as kw

SHAPE = (4, 4, 1)
CLASSES = 3
FGSM = kw.attacks.FGSM(epsilon=0.05)


def data(count=12, seed=0, shape=SHAPE):
    """Noise, and class numbers in turn."""
    x = np.random.default_rng(seed).random((count, *shape), np.float32)
    return x, np.arange(count, dtype="int32") % CLASSES


def patterns(count=12, seed=0):
    """Images of one pattern for each class under noise, which can be learnt."""
    x, y = data(count, seed)
    return 0.5 * data(CLASSES, seed=9)[0][y] + 0.5 * x, y


def network(hidden=list, shape=SHAPE, seed=0, name=None):
    """A linear head on flat pixels, after the layers that `hidden` makes.

    `hidden` is a function: a layer draws the seed of its first weights when it
    is made, which is to be after the seed is set.
    """
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            *hidden(),
            keras.layers.Dense(CLASSES),
        ],
        name=name,
    )


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Subclassed(keras.Model):
    """A linear classifier that does not say how its layers are connected."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.flatten = keras.layers.Flatten()
        self.logits = keras.layers.Dense(CLASSES, name="logits")

    def call(self, x):
        return self.logits(self.flatten(x))


def wake(classifier=None, attack=FGSM, optimizer=None, **arguments):
    """A compiled model that is evaluated under the attack of its training."""
    arguments = {"eval_attack": attack, **arguments}
    model = kw.WakeModel(classifier or network(), attack, **arguments)
    model.compile(optimizer or keras.optimizers.SGD(0.1))
    return model


def fit(model, *callbacks, count=12, images=data, **arguments):
    """Trains on `images(count)` in its order, and returns the `History`."""
    arguments = {"shuffle": False, "verbose": 0, **arguments}
    return model.fit(*images(count), callbacks=list(callbacks), **arguments)


def assert_same(values, others):
    """The same arrays, one by one."""
    for value, other in zip(values, others, strict=True):
        np.testing.assert_array_equal(value, other)


class Interrupt(keras.callbacks.Callback):
    """Stands for a kill at the end of an epoch (from 0), or of a batch of it.

    In a list before `BackupAndRestore`, it acts before the backup is written.
    """

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.at == (self.epoch, batch):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if self.at == (epoch, None):
            raise KeyboardInterrupt


class StopAfter(keras.callbacks.Callback):
    """Ends `fit` as `EarlyStopping` does, after an epoch (from 0)."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.stop_training = True


def output_of(*command, timeout=600, **options):
    """What Python prints for a command, which has to end well."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

"""Which backend the tests run on, and small things that they share."""

import contextlib
import gc
import os
import sys
import warnings

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Several test processes share two cores: more threads in each of them would
# only wait for one another.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests compile much and run it once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Before TensorFlow: the two clash in the other order, as Keras's own tests
# say. Where PyTorch is missing, what compares with it skips.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras
import numpy as np
import pytest

_warn, _warn_explicit = warnings.warn, warnings.warn_explicit


def _warn_of_keras_wake(message, category=None, stacklevel=1, *args, **options):
    """`warnings.warn` that marks what keras_wake warns of.

    A filter sees the module that a warning points at, and `stacklevel` points
    at the caller: pytest could not tell our warnings from those of others.
    """
    frame = sys._getframe(1)
    if frame.f_globals.get("__name__", "").split(".")[0] != "keras_wake":
        _warn(message, category, stacklevel + 1, *args, **options)
        return
    if not isinstance(message, Warning):
        message = (category or UserWarning)(message)
    message.raised_by_keras_wake = True
    while stacklevel > 1 and frame.f_back:
        frame, stacklevel = frame.f_back, stacklevel - 1
    warnings.warn_explicit(
        message, type(message), frame.f_code.co_filename, frame.f_lineno
    )


def _warn_explicit_of_keras_wake(
    message, category, filename, lineno, module=None, *args, **options
):
    """Names the module of ours that pyproject.toml turns into errors.

    `pytest.warns` passes on here what it has caught and did not wait for.
    """
    if getattr(message, "raised_by_keras_wake", False):
        module = "raised_by_keras_wake"
    _warn_explicit(
        message, category, filename, lineno, module, *args, **options
    )


warnings.warn = _warn_of_keras_wake
warnings.warn_explicit = _warn_explicit_of_keras_wake


# TensorFlow rewrites each graph before its first run. That takes a sixth of the
# time of a suite that compiles much and computes little, and more than it gives
# back. It changes rounding and no meaning; `.ci/run` has the tests against
# peers and the slow ones run with it, as users do.
if keras.backend.backend() == "tensorflow" and not os.environ.get(
    "REWRITE_GRAPHS"
):
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


def pytest_collection_finish():
    """Keeps the garbage collector away from what lives until the end.

    TensorFlow and Keras are a million objects, which each full collection
    would visit again. What a traced graph leaves is let grow for longer than
    by default, in which most of it is gone by itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@contextlib.contextmanager
def _without_compiling():
    """Has TensorFlow compile nothing, where little is computed.

    To compile an attack takes more than a second, an eager step milliseconds.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def without_compiling():
    """For a part of a test: a context manager."""
    return _without_compiling


@pytest.fixture
def eagerly():
    """For a whole test."""
    with _without_compiling():
        yield


@pytest.fixture(scope="module")
def all_eagerly():
    """`eagerly` for a whole file, with the fixtures that its tests share."""
    with _without_compiling():
        yield


NUM_CLASSES = 3
IMAGE_SHAPE = (6, 6, 1)


@pytest.fixture
def images():
    """Ten images (10, 6, 6, 1), float32 in [0, 1]."""
    return np.random.default_rng(0).random((10, *IMAGE_SHAPE), np.float32)


@pytest.fixture
def labels():
    """Class numbers (10,) in which each of the three classes occurs."""
    return np.arange(10, dtype="int32") % NUM_CLASSES


@pytest.fixture
def classifier():
    """A convolution, batch norm, dropout and a head, none at its default."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            keras.layers.Conv2D(4, 3, padding="same", name="conv"),
            keras.layers.BatchNormalization(epsilon=1e-5, name="norm"),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.25, seed=1),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(NUM_CLASSES, name="head"),
        ]
    )
    rng = np.random.default_rng(1)
    model.get_layer("norm").set_weights(
        [
            rng.uniform(0.5, 1.5, 4),
            rng.normal(0, 0.2, 4),
            rng.normal(0, 0.2, 4),
            rng.uniform(0.5, 1.5, 4),
        ]
    )
    model.get_layer("head").set_weights(
        [rng.normal(0, 1, (4, NUM_CLASSES)), rng.normal(0, 1, NUM_CLASSES)]
    )
    return model


@pytest.fixture
def shard(monkeypatch):
    """Sets the process, the processes and the devices that share the data."""

    def set_shard(*values, evenly=True):
        monkeypatch.setattr("keras_wake.backend.data_shard", lambda: values)
        monkeypatch.setattr("keras_wake.backend.divides_evenly", evenly)

    return set_shard

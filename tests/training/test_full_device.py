"""A device without enough memory: what to lower, on every backend."""

import keras
import pytest
from keras import ops
from small import data
from small import SHAPE
from small import wake

import keras_wake as kw
from keras_wake.checkpoint import snapshot

PGD = kw.attacks.PGD(epsilon=0.1, steps=1)


class Wasteful(keras.layers.Layer):
    """Asks for more memory than any process can address."""

    where = "training"

    def call(self, x, training=False):
        here = "training" if training else "evaluation"
        # A check of the network passes four images.
        if here != self.where or x.shape[0] == 4:
            return x
        if keras.backend.backend() != "jax":
            return x + ops.tile(x[:1], (1 << 42, 1, 1, 1))[:1]
        import jax

        # At once, as XLA would compile it away.
        with jax.ensure_compile_time_eval():
            return x + ops.zeros((1 << 46,))[0]


def wasteful_model():
    layers = [keras.Input(SHAPE), Wasteful(), keras.layers.Flatten()]
    network = keras.Sequential([*layers, keras.layers.Dense(3)])
    return wake(network, PGD)


def test_a_full_device_says_what_to_lower():
    x, y = data(8)
    model = wasteful_model()
    with pytest.raises(MemoryError, match=r"a step of training.*batch_size"):
        model.fit(x, y, verbose=0)
    # What fits goes on.
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) > {"loss"}


def test_so_does_an_evaluation(monkeypatch):
    model = wasteful_model()
    monkeypatch.setattr(Wasteful, "where", "evaluation")
    with pytest.raises(MemoryError, match=r"batch of the evaluation.*Lower"):
        kw.evaluation.robust_accuracy(
            model.classifier, data(8), PGD, checks=False, verbose=0
        )


def test_so_does_the_copy_of_the_weights(monkeypatch):
    def full(model):
        # As it is on JAX; the other tests have the errors of each backend.
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(snapshot, "copy", full)
    model = wasteful_model()
    with pytest.raises(MemoryError, match="keep_recovery_copy=False"):
        model.fit(*data(8), verbose=0)

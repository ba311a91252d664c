"""A device without enough memory: what to lower, on every backend."""

import keras
import pytest
from keras import ops
from small import data
from small import wake

import keras_wake as kw


class Wasteful(keras.layers.Layer):
    """Asks for more memory in training than any process can address."""

    def call(self, x, training=False):
        if not training:
            return x
        if keras.backend.backend() != "jax":
            return x + ops.tile(x[:1], (1 << 42, 1, 1, 1))[:1]
        import jax

        # At once, as XLA would compile it away.
        with jax.ensure_compile_time_eval():
            return x + ops.zeros((1 << 46,))[0]


def test_a_full_device_says_what_to_lower():
    x, y = data(8)
    layers = [keras.Input(x.shape[1:]), Wasteful(), keras.layers.Flatten()]
    network = keras.Sequential([*layers, keras.layers.Dense(3)])
    model = wake(network, kw.attacks.PGD(epsilon=0.1, steps=1))
    with pytest.raises(MemoryError, match=r"a step of training.*batch_size"):
        model.fit(x, y, verbose=0)
    # What fits goes on.
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) > {"loss"}

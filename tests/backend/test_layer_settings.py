"""A compiled function is kept until a layer of its model changes."""

import gc
import weakref

import keras
import pytest

from keras_wake.backend.layer_settings import layers_fingerprint
from keras_wake.backend.layer_settings import PerModel


def model():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip()(inputs)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def activation(network):
    network.layers[-1].activation = keras.activations.tanh


def attribute(network):
    network.layers[-2].data_format = "channels_first"


def policy(network):
    network.layers[-1].dtype_policy = keras.DTypePolicy("mixed_bfloat16")


@pytest.mark.parametrize("change", [activation, attribute, policy, None])
def test_a_value_is_made_anew_after_a_change(change):
    network, made, kept = model(), [], PerModel()

    def make(reference):
        made.append(reference())
        return len(made)

    assert [kept.get(network, make) for _ in range(2)] == [1, 1]
    if change is not None:
        change(network)
    assert kept.get(network, make) == (1 if change is None else 2)


def test_a_function_in_the_place_of_another_is_seen():
    layer = keras.layers.Dense(2)
    network = keras.Sequential([keras.Input((2,)), layer])
    for _ in range(20):
        # Where the first one is freed, the next may take its address.
        layer.activation = lambda x: 2 * x
        before = layers_fingerprint(network)
        layer.activation = None
        layer.activation = lambda x: 3 * x
        assert layers_fingerprint(network) != before


def test_keeps_no_model_alive():
    network, kept = model(), PerModel()
    kept.get(network, lambda reference: 1)
    activation(network)
    kept.get(network, lambda reference: 2)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None

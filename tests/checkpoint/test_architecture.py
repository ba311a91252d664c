"""What tells two models apart, and what tells of a change in place."""

import gc
import weakref

import keras
import pytest

from keras_wake.backend.compile_cache import forget_compiled
from keras_wake.backend.compile_cache import PerModel
from keras_wake.backend.layer_settings import layers_of_now
from keras_wake.checkpoint.architecture import architecture


def model(rate=0.1, policy=None, units=3, seed=None):
    inner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation="relu")]
    )
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip()(inputs)
    x = keras.layers.RandomTranslation(0.1, 0.1, seed=seed)(x)
    x = keras.layers.Normalization(mean=[0.1] * 3, variance=[1.0] * 3)(x)
    x = keras.layers.TimeDistributed(keras.layers.TimeDistributed(inner))(x)
    x = keras.layers.Dropout(rate)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(units, dtype=policy)(x))


def test_the_same_however_it_is_made(tmp_path):
    first, second = model(seed=1), model(seed=2)
    assert first.layers[-1].name != second.layers[-1].name
    expected = architecture(first)
    assert architecture(second) == expected
    second.trainable = False
    assert architecture(second) == expected
    first.compile("sgd", "mse")
    first.predict(keras.ops.zeros((1, 8, 8, 3)), verbose=0)
    assert architecture(first) == expected
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert architecture(loaded) == expected
    assert architecture(keras.models.clone_model(first)) == expected


def test_settings_and_dtypes_tell_models_apart():
    digests = {
        architecture(each)
        for each in (
            model(),
            model(rate=0.2),
            model(units=4),
            model(policy="mixed_bfloat16"),
        )
    }
    assert len(digests) == 4


def test_a_call_and_a_build_make_the_same():
    def layers():
        return [keras.layers.Flatten(), keras.layers.Dense(4)]

    called, built = keras.Sequential(layers()), keras.Sequential(layers())
    called(keras.ops.zeros((7, 2, 2)))
    built.build((None, 2, 2))
    assert architecture(called) == architecture(built)


def activation(network):
    network.layers[-1].activation = keras.activations.tanh


def attribute(network):
    network.layers[-2].data_format = "channels_first"


def policy(network):
    network.layers[-1].dtype_policy = keras.DTypePolicy("mixed_bfloat16")


def forgotten(network):
    forget_compiled(network)


@pytest.mark.parametrize(
    "change", [activation, attribute, policy, forgotten, None]
)
def test_a_value_is_made_anew_after_a_change(change):
    network, made, kept = model(), [], PerModel()

    def make(reference):
        made.append(reference())
        return len(made)

    assert kept.find(network) is None
    assert [kept.get(network, make) for _ in range(2)] == [1, 1]
    if change is not None:
        change(network)
        assert kept.find(network) is None
    assert kept.get(network, make) == (1 if change is None else 2)
    kept.put(network, "another")
    assert kept.find(network) == "another"


def test_a_function_in_the_place_of_another_is_seen():
    layer = keras.layers.Dense(2)
    network = keras.Sequential([keras.Input((2,)), layer])
    for _ in range(20):
        # Where the first one is freed, the next may take its address.
        layer.activation = lambda x: 2 * x
        before = layers_of_now(network)
        layer.activation = None
        layer.activation = lambda x: 3 * x
        assert layers_of_now(network) != before


def test_keeps_no_model_alive():
    network, kept = model(), PerModel()
    kept.get(network, lambda reference: 1)
    forget_compiled(network)
    kept.get(network, lambda reference: 2)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None

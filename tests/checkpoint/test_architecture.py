"""What tells two models apart."""

import keras

from keras_wake.checkpoint.architecture import layers_digest


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
    expected = layers_digest(first)
    assert layers_digest(second) == expected
    second.trainable = False
    assert layers_digest(second) == expected
    first.compile("sgd", "mse")
    first.predict(keras.ops.zeros((1, 8, 8, 3)), verbose=0)
    assert layers_digest(first) == expected
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert layers_digest(loaded) == expected
    assert layers_digest(keras.models.clone_model(first)) == expected


def test_settings_and_dtypes_tell_models_apart():
    others = [{}, {"rate": 0.2}, {"units": 4}, {"policy": "mixed_bfloat16"}]
    assert len({layers_digest(model(**each)) for each in others}) == 4


def test_a_call_and_a_build_make_the_same():
    def layers():
        return [keras.layers.Flatten(), keras.layers.Dense(4)]

    called, built = keras.Sequential(layers()), keras.Sequential(layers())
    called(keras.ops.zeros((7, 2, 2)))
    built.build((None, 2, 2))
    assert layers_digest(called) == layers_digest(built)

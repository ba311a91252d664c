"""A data set that is added from one file outside of the package."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_wake as kw

FILE = '''
"""Bright and dark images."""

import numpy as np

import keras_wake as kw


def open_brightness(data_dir, image_size):
    rng = np.random.default_rng(0)

    def part(count):
        labels = (np.arange(count) % 2).astype("int32")
        images = rng.integers(0, 100, (count, 8, 8, 1)) + 150 * (
            labels[:, None, None, None]
        )
        return kw.datasets.ImageArrays(images.astype("uint8"), labels)

    return kw.datasets.Source.from_arrays(
        part(80), part(20), ("dark", "bright"), default_augment="flip"
    )


kw.datasets.register("brightness", open_brightness)
'''


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    path = tmp_path / "brightness.py"
    path.write_text(FILE)
    catalogue = kw.datasets.loading
    monkeypatch.setattr(catalogue, "_OPENERS", dict(catalogue._OPENERS))
    spec = importlib.util.spec_from_file_location("brightness", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_registered_data_set_loads_and_is_learned(brightness):
    splits = kw.datasets.load("brightness", batch_size=10, test_limit=10)
    assert splits.class_names == ("dark", "bright")
    assert splits.input_shape == (8, 8, 1)
    sizes = (splits.train_size, splits.validation_size, splits.test_size)
    assert sizes == (72, 8, 10)
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.SGD(0.1), loss)
    classifier.fit(splits.train, epochs=10, verbose=0, shuffle=False)
    x, y = splits.arrays("test")
    logits = keras.ops.convert_to_numpy(classifier(x))
    np.testing.assert_array_equal(logits.argmax(1), y)


def test_refuses_a_taken_name_and_an_unknown_one(brightness):
    with pytest.raises(ValueError, match="There is a data set of the name 'br"):
        kw.datasets.register("brightness", lambda data_dir, size: None)
    with pytest.raises(TypeError, match=r"a name and a function.*5 and 5"):
        kw.datasets.register(5, 5)
    with pytest.raises(ValueError, match=r"one of 'digits'.*'brightness'"):
        kw.datasets.load("new")

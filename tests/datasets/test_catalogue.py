"""A data set that is added from one function outside of the package."""

import numpy as np
import pytest
from image_batches import sizes_of

import keras_wake as kw


def part(count):
    labels = np.arange(count, dtype="int32") % 2
    images = np.full((count, 8, 8, 1), 50, "uint8")
    images[labels == 1] = 200
    return kw.datasets.ImageArrays(images, labels)


def open_brightness(data_dir, image_size):
    return kw.datasets.Source.from_arrays(
        part(80), part(20), ("dark", "bright"), default_augment="flip"
    )


def test_a_data_set_is_registered_under_a_free_name(monkeypatch):
    catalogue = kw.datasets.loading
    monkeypatch.setattr(catalogue, "_OPENERS", dict(catalogue._OPENERS))
    kw.datasets.register("brightness", open_brightness)
    splits = kw.datasets.load("brightness", batch_size=10, test_limit=10)
    assert splits.class_names == ("dark", "bright")
    assert splits.input_shape == (8, 8, 1)
    assert sizes_of(splits) == (72, 8, 10)
    for name in ("train", "validation", "test"):
        images, labels = splits.arrays(name)
        np.testing.assert_array_equal(images.mean((1, 2, 3)) > 0.5, labels)
    with pytest.raises(ValueError, match="There is a data set of the name 'br"):
        kw.datasets.register("brightness", open_brightness)
    with pytest.raises(TypeError, match=r"a name and a function.*5 and 5"):
        kw.datasets.register(5, 5)
    with pytest.raises(ValueError, match=r"one of 'digits'.*'brightness'"):
        kw.datasets.load("new")

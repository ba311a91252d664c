"""Small images, their files, and their batches as lists."""

import keras
import numpy as np
import pytest

from keras_wake.datasets.numpy_pipeline import EpochCounter
from keras_wake.datasets.numpy_pipeline import TrainingBatches
from keras_wake.datasets.source import ImageArrays

SIZE = 50
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs tf.data"
)


def random_data(size=SIZE, height=8, width=11, white=255):
    """Not square, so that rows and columns cannot be mistaken."""
    images = np.random.default_rng(0).integers(
        0, white + 1, (size, height, width, 2), np.uint8
    )
    return ImageArrays(images, np.arange(size, dtype=np.int32), white)


def training(
    data=None,
    batch_size=16,
    num_classes=None,
    augment="crop_flip",
    epoch=0,
    seed=0,
    cutmix=None,
    drop_remainder=False,
):
    return TrainingBatches(
        random_data() if data is None else data,
        batch_size,
        num_classes,
        augment,
        seed,
        EpochCounter(epoch),
        cutmix,
        drop_remainder,
    )


def listed(dataset):
    return [tuple(np.asarray(part) for part in batch) for batch in dataset]


def joined(batches):
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for batch, other in zip(first, second, strict=True):
        assert len(batch) == len(other)
        for part, other_part in zip(batch, other, strict=True):
            assert np.asarray(part).dtype == np.asarray(other_part).dtype
            np.testing.assert_array_equal(part, other_part)


def sizes_of(splits):
    return splits.train_size, splits.validation_size, splits.test_size


def labelled(splits):
    """Of each image of all splits, by its bytes: is it for test, its label."""
    return {
        image.tobytes(): (name == "test", label)
        for name in ("train", "validation", "test")
        for image, label in zip(*splits.arrays(name), strict=True)
    }


def write_image(path, seed, side=8, mode="RGB"):
    image_module = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    image_module.fromarray(pixels).convert(mode).save(path)

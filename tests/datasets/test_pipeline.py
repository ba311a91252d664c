"""Order, augmentation and epochs of the training pipeline."""

import gc
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_wake import datasets
from keras_wake.datasets import pipeline

tf = pytest.importorskip("tensorflow", reason="pipelines are made of tf.data")

REPO = pathlib.Path(__file__).resolve().parents[2]


def random_data(size, side=8, channels=2, seed=0):
    images = np.random.default_rng(seed).integers(
        0, 256, (size, side, side, channels), np.uint8
    )
    return pipeline.ImageArrays(images, np.arange(size, dtype=np.int32))


def passes(count, augment="crop_flip", epoch=0, seed=0, data=None):
    dataset = pipeline.training_dataset(
        random_data(50) if data is None else data,
        16,
        None,
        augment,
        seed,
        pipeline.EpochCounter(epoch),
    )
    return [list(dataset.as_numpy_iterator()) for _ in range(count)]


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches])


def test_each_pass_has_every_image_once_in_another_order():
    first, second = passes(2)
    assert [len(labels) for _, labels in first] == [16, 16, 16, 2]
    for batches in (first, second):
        assert sorted(labels_of(batches)) == list(range(50))
    assert list(labels_of(first)) != list(labels_of(second))
    assert list(labels_of(first)) != list(range(50))


def test_without_augmentation_images_belong_to_their_labels():
    data = random_data(50)
    (batches,) = passes(1, augment="none", data=data)
    for images, labels in batches:
        np.testing.assert_array_equal(images, data.floats()[labels])


def test_resumed_run_sees_the_batches_of_the_uninterrupted_one():
    uninterrupted = passes(4)
    resumed = passes(2, epoch=2)
    for first, second in zip(uninterrupted[2:], resumed, strict=True):
        assert_same_batches(first, second)


def test_seed_decides():
    (first,), (same,), (other,) = passes(1), passes(1), passes(1, seed=1)
    assert_same_batches(first, same)
    assert list(labels_of(first)) != list(labels_of(other))


def test_augmentation_depends_on_image_and_epoch_alone():
    data = random_data(50)
    first = passes(1, data=data)[0]
    # Half the batch size: the same images in other batches.
    halved = pipeline.training_dataset(
        data, 8, None, "crop_flip", 0, pipeline.EpochCounter(0)
    )
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in first]),
        np.concatenate([images for images, _ in halved.as_numpy_iterator()]),
    )


def test_every_augmented_image_is_a_reflected_crop_or_its_mirror_image():
    data = random_data(200, side=12)
    originals = data.floats()
    padded = np.pad(originals, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    found = []
    (batches,) = passes(1, data=data)
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            matches = [
                (top, left, flip)
                for top in range(9)
                for left in range(9)
                for flip in (False, True)
                if np.array_equal(
                    image[:, ::-1] if flip else image,
                    padded[label, top : top + 12, left : left + 12],
                )
            ]
            assert len(matches) == 1
            found += matches
    tops, lefts, flips = np.array(found).T
    assert set(tops) == set(lefts) == set(range(9))
    # 200 fair coins: outside of 70..130 with probability 1e-5.
    assert 70 < flips.sum() < 130
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.3


def test_flip_alone_does_not_crop():
    data = random_data(50)
    (batches,) = passes(1, augment="flip", data=data)
    flips = 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            original = data.floats()[label]
            flipped = not np.array_equal(image, original)
            flips += flipped
            if flipped:
                np.testing.assert_array_equal(image, original[:, ::-1])
    assert 10 < flips < 40


def test_a_pass_given_up_does_not_count():
    splits = datasets.load("digits", batch_size=16, limit=400)
    for _ in range(3):
        next(iter(splits.train))
    first = list(splits.train.as_numpy_iterator())
    fresh = datasets.load("digits", batch_size=16, limit=400)
    assert_same_batches(first, list(fresh.train.as_numpy_iterator()))


def test_set_epoch_fixes_the_epoch():
    splits = datasets.load("digits", batch_size=64, limit=200)
    uninterrupted = [list(splits.train.as_numpy_iterator()) for _ in range(3)]
    splits.set_epoch(1)
    for _ in range(2):
        assert_same_batches(
            uninterrupted[1], list(splits.train.as_numpy_iterator())
        )
    with pytest.raises(ValueError, match="`epoch` must be at least 0"):
        splits.set_epoch(-1)


def test_data_sets_outlive_the_splits():
    train = datasets.load("digits", limit=100).train
    gc.collect()
    first, second = (list(train.as_numpy_iterator()) for _ in range(2))
    assert list(labels_of(first)) != list(labels_of(second))


class LabelRecorder(keras.Model):
    """Sums position-weighted labels, a fingerprint of the order."""

    def __init__(self):
        super().__init__()
        self.total = self.add_weight(
            shape=(), dtype="float32", initializer="zeros", trainable=False
        )

    def call(self, x):
        return x

    def train_step(self, data):
        images, labels = data
        batch = tf.cast(labels, tf.float32) * tf.reduce_mean(
            images, axis=(1, 2, 3)
        )
        weights = tf.range(1.0, tf.cast(tf.shape(labels)[0], tf.float32) + 1)
        self.total.assign(self.total * 0.9 + tf.reduce_sum(weights * batch))
        return {"total": self.total}


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a tf train_step"
)
def test_fit_sees_the_epochs_in_their_order():
    def totals(epochs, initial_epoch):
        splits = datasets.load(
            "digits", batch_size=64, limit=300, initial_epoch=initial_epoch
        )
        model = LabelRecorder()
        model.compile()

        class Restart(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                model.total.assign(0.0)

        history = model.fit(
            splits.train,
            epochs=epochs,
            initial_epoch=initial_epoch,
            verbose=0,
            callbacks=[Restart()],
        )
        return history.history["total"]

    whole = totals(4, 0)
    assert len(set(whole)) == 4
    assert totals(4, 2) == whole[2:]


TWO_REPLICAS = """
import sys
import keras
import tensorflow as tf
from keras_wake import datasets

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def run(strategy, initial_epoch, inside):
    def load():
        return datasets.load(
            "digits", batch_size=32, limit=500, initial_epoch=initial_epoch
        )
    with strategy.scope():
        splits = load() if inside else None
        keras.utils.set_random_seed(0)
        model = keras.Sequential([
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=False)
    splits = splits or load()
    seen = []
    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])
    model.fit(
        splits.train, validation_data=splits.validation, epochs=3,
        initial_epoch=initial_epoch, verbose=0, callbacks=[Record()],
    )
    return seen

one = run(tf.distribute.get_strategy(), 0, False)
for inside in (False, True):
    two = run(strategy, 0, inside)
    assert len(two) == len(one) == 48, (len(one), len(two))
    worst = max(abs(a - b) for a, b in zip(one, two))
    assert worst < 1e-3, worst
"""


def test_two_replicas_see_the_batches_of_one():
    result = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": str(REPO),
        },
    )
    assert result.returncode == 0, result.stderr[-2000:]

"""Order, augmentation and epochs, of `tf.data` and of NumPy batches."""

import contextlib
import gc
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_wake import datasets
from keras_wake.datasets.augmentation import augmentation_draws
from keras_wake.datasets.augmentation import order_draws
from keras_wake.datasets.numpy_pipeline import EpochCounter
from keras_wake.datasets.numpy_pipeline import EvaluationBatches
from keras_wake.datasets.numpy_pipeline import TrainingBatches
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.tensorflow_pipeline import evaluation_dataset
from keras_wake.datasets.tensorflow_pipeline import training_dataset

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs tf.data"
)
REPO = pathlib.Path(__file__).resolve().parents[2]


def tensorflow_training(*args):
    return training_dataset(TrainingBatches(*args))


def tensorflow_evaluation(*args):
    return evaluation_dataset(EvaluationBatches(*args))


def random_data(size, side=8, channels=2, seed=0):
    images = np.random.default_rng(seed).integers(
        0, 256, (size, side, side, channels), np.uint8
    )
    return ImageArrays(images, np.arange(size, dtype=np.int32))


def floats(data):
    return (data.images / np.float32(data.white)).astype(np.float32)


def listed(dataset):
    return [tuple(np.asarray(part) for part in batch) for batch in dataset]


@pytest.fixture(
    params=[
        pytest.param(
            tensorflow_training,
            marks=on_tensorflow,
            id="tf.data",
        ),
        pytest.param(TrainingBatches, id="numpy"),
    ]
)
def passes(request):
    """A function that returns the batches of some passes."""

    def passes(
        count,
        augment="crop_flip",
        epoch=0,
        seed=0,
        data=None,
        batch_size=16,
        num_classes=None,
    ):
        dataset = request.param(
            random_data(50) if data is None else data,
            batch_size,
            num_classes,
            augment,
            seed,
            EpochCounter(epoch),
        )
        return [listed(dataset) for _ in range(count)]

    return passes


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches])


def test_each_pass_has_every_image_once_in_another_order(passes):
    first, second = passes(2)
    assert [len(labels) for _, labels in first] == [16, 16, 16, 2]
    for batches in (first, second):
        assert sorted(labels_of(batches)) == list(range(50))
    assert list(labels_of(first)) != list(labels_of(second))
    assert list(labels_of(first)) != list(range(50))


def test_without_augmentation_images_belong_to_their_labels(passes):
    data = random_data(50)
    (batches,) = passes(1, augment="none", data=data)
    for images, labels in batches:
        np.testing.assert_array_equal(images, floats(data)[labels])


def test_resumed_run_sees_the_batches_of_the_uninterrupted_one(passes):
    uninterrupted = passes(4)
    resumed = passes(2, epoch=2)
    for first, second in zip(uninterrupted[2:], resumed, strict=True):
        assert_same_batches(first, second)


def test_seed_decides(passes):
    (first,), (same,), (other,) = passes(1), passes(1), passes(1, seed=1)
    assert_same_batches(first, same)
    assert list(labels_of(first)) != list(labels_of(other))


def test_augmentation_depends_on_image_and_epoch_alone(passes):
    data = random_data(50)
    first = passes(1, data=data)[0]
    # Half the batch size: the same images in other batches.
    (halved,) = passes(1, data=data, batch_size=8)
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in first]),
        np.concatenate([images for images, _ in halved]),
    )


def test_every_augmented_image_is_a_reflected_crop_or_its_mirror_image(passes):
    data = random_data(200, side=12)
    originals = floats(data)
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


def test_flip_alone_does_not_crop(passes):
    data = random_data(50)
    (batches,) = passes(1, augment="flip", data=data)
    flips = 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            original = floats(data)[label]
            flipped = not np.array_equal(image, original)
            flips += flipped
            if flipped:
                np.testing.assert_array_equal(image, original[:, ::-1])
    assert 10 < flips < 40


def test_a_pass_given_up_does_not_count():
    splits = datasets.load("digits", batch_size=16, limit=400)
    for _ in range(3):
        next(iter(splits.train))
    first = listed(splits.train)
    fresh = datasets.load("digits", batch_size=16, limit=400)
    assert_same_batches(first, listed(fresh.train))


def test_set_epoch_fixes_the_epoch():
    splits = datasets.load("digits", batch_size=64, limit=200)
    uninterrupted = [listed(splits.train) for _ in range(3)]
    splits.set_epoch(1)
    for _ in range(2):
        assert_same_batches(uninterrupted[1], listed(splits.train))
    with pytest.raises(ValueError, match="`epoch` must be at least 0"):
        splits.set_epoch(-1)


def test_data_sets_outlive_the_splits():
    train = datasets.load("digits", limit=100).train
    gc.collect()
    first, second = (listed(train) for _ in range(2))
    assert list(labels_of(first)) != list(labels_of(second))


@on_tensorflow
@pytest.mark.parametrize("augment", ["crop_flip", "flip", "none"])
@pytest.mark.parametrize("num_classes", [None, 50])
def test_numpy_batches_are_those_of_tf_data(augment, num_classes):
    # Not square, so that rows and columns cannot be mistaken.
    images = np.random.default_rng(0).integers(0, 17, (50, 8, 11, 2), np.uint8)
    data = ImageArrays(images, np.arange(50, dtype=np.int32), white=16)
    of_tf, of_numpy = (
        make(data, 16, num_classes, augment, 5, EpochCounter(2))
        for make in (
            tensorflow_training,
            TrainingBatches,
        )
    )
    for _ in range(3):
        expected = listed(of_tf)
        assert len(expected) == 4
        assert_same_batches(expected, listed(of_numpy))
        for x, y in expected:
            assert x.dtype == np.float32
            assert y.dtype == (np.int32 if num_classes is None else np.float32)
    of_tf, of_numpy = (
        make(data, 16, num_classes)
        for make in (
            tensorflow_evaluation,
            EvaluationBatches,
        )
    )
    assert_same_batches(listed(of_tf), listed(of_numpy))


def test_draws_never_change():
    # Whoever resumes a run or repeats a published one depends on them.
    order = order_draws(6, seed=1, epoch=2)
    choices = augmentation_draws(6, (9, 18), seed=1, epoch=2)
    assert order.tolist() == [1, 3, 0, 4, 2, 5]
    expected = [[6, 9], [6, 14], [1, 5], [0, 14], [8, 13], [5, 12]]
    assert choices.tolist() == expected
    assert order.dtype == choices.dtype == np.int32
    for seed, epoch in ((2, 2), (1, 3), (2**63 - 1, 2)):
        others = augmentation_draws(6, (9, 18), seed, epoch)
        assert others.tolist() != choices.tolist()


def test_fit_sees_the_epochs_in_their_order():
    def load(initial_epoch):
        return datasets.load(
            "digits",
            batch_size=64,
            limit=300,
            augment="flip",
            initial_epoch=initial_epoch,
        )

    def seen_by_fit(initial_epoch):
        seen = []

        def keep(images):
            # Keras also calls it with what is no array, to build the model.
            with contextlib.suppress(TypeError, NotImplementedError):
                seen.append(keras.ops.convert_to_numpy(images))
            return images

        class ForgetBuilding(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                seen.clear()

        model = keras.Sequential(
            [
                keras.layers.Lambda(keep),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=True, jit_compile=False)
        splits = load(initial_epoch)
        model.fit(
            splits.train,
            epochs=3,
            initial_epoch=initial_epoch,
            shuffle=False,
            verbose=0,
            callbacks=[ForgetBuilding()],
        )
        return seen

    train = load(0).train
    expected = [images for _ in range(3) for images, _ in listed(train)]
    for initial_epoch in (0, 2):
        seen = seen_by_fit(initial_epoch)
        wanted = expected[5 * initial_epoch :]
        for images, others in zip(seen, wanted, strict=True):
            np.testing.assert_array_equal(images, others)


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


@on_tensorflow
@pytest.mark.slow
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


@on_tensorflow
def test_the_end_of_an_epoch_waits_for_no_tuning():
    splits = datasets.load("digits", augment="none")
    for dataset in splits.train, splits.validation, splits.test:
        # Else the iterator, when it is deleted, waits for a thread that
        # sleeps for as long as the epoch has taken.
        assert dataset.options().autotune.enabled is False

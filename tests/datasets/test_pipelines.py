"""Order, augmentation and epochs, of `tf.data` and of NumPy batches."""

import contextlib
import gc

import keras
import numpy as np
import pytest
from image_batches import assert_same_batches
from image_batches import joined
from image_batches import listed
from image_batches import on_tensorflow
from image_batches import random_data
from image_batches import SIZE
from image_batches import training
from small import assert_same

from keras_wake import datasets
from keras_wake.datasets.augmentation import augmentation_draws
from keras_wake.datasets.augmentation import order_draws
from keras_wake.datasets.numpy_pipeline import ImageBatches
from keras_wake.datasets.tensorflow_pipeline import as_dataset


def floats(data):
    return (data.images / np.float32(data.white)).astype(np.float32)


def labels_of(batches):
    return joined(batches)[1]


def test_each_pass_has_every_image_once_in_another_order():
    batches = training()
    first, second = (listed(batches) for _ in range(2))
    assert [len(labels) for _, labels in first] == [16, 16, 16, 2]
    for each in (first, second):
        assert sorted(labels_of(each)) == list(range(SIZE))
    assert list(labels_of(first)) != list(range(SIZE))
    # The epoch decides, and the seed.
    assert_same_batches(first, listed(training()))
    for other in (second, listed(training(seed=1))):
        assert list(labels_of(first)) != list(labels_of(other))


def test_without_augmentation_images_belong_to_their_labels():
    images, labels = joined(training(augment="none"))
    np.testing.assert_array_equal(images, floats(random_data())[labels])


@pytest.mark.parametrize("cutmix", [None, 1.0])
def test_an_image_depends_on_seed_and_epoch_alone(cutmix):
    # Half the batch size: the same images in other batches.
    whole, halved = (
        joined(training(batch_size=n, num_classes=SIZE, cutmix=cutmix))
        for n in (16, 8)
    )
    assert_same(whole, halved)


def test_every_augmented_image_is_a_reflected_crop_or_its_mirror_image():
    data = random_data(200, 12, 12)
    originals = floats(data)
    padded = np.pad(originals, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    found = []
    for image, label in zip(*joined(training(data)), strict=True):
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
    data = random_data()
    flips = 0
    for image, label in zip(*joined(training(augment="flip")), strict=True):
        original = floats(data)[label]
        flipped = not np.array_equal(image, original)
        flips += flipped
        if flipped:
            np.testing.assert_array_equal(image, original[:, ::-1])
    assert 10 < flips < 40


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


@on_tensorflow
@pytest.mark.parametrize(
    ("augment", "num_classes", "cutmix"),
    [
        ("crop_flip", None, None),
        ("flip", SIZE, None),
        ("none", None, None),
        ("crop_flip", SIZE, 0.3),
        ("none", SIZE, 1.0),
    ],
)
def test_batches_of_tf_data_are_those_of_numpy(augment, num_classes, cutmix):
    data = random_data(white=16)
    of_tf, of_numpy = (
        training(data, 16, num_classes, augment, 2, 5, cutmix) for _ in range(2)
    )
    of_tf = as_dataset(of_tf)
    for _ in range(3):
        expected = listed(of_tf)
        assert len(expected) == 4
        assert_same_batches(expected, listed(of_numpy))
        for x, y in expected:
            assert x.dtype == np.float32
            assert y.dtype == (np.int32 if num_classes is None else np.float32)
    batches = ImageBatches(data, 16, num_classes)
    assert_same_batches(listed(as_dataset(batches)), listed(batches))


# On each backend, what `load` returns.


def load(**arguments):
    return datasets.load("digits", batch_size=64, limit=200, **arguments)


def test_resumed_run_sees_the_batches_of_the_uninterrupted_one():
    uninterrupted = load(augment="crop_flip").train
    resumed = load(augment="crop_flip", initial_epoch=2).train
    expected = [listed(uninterrupted) for _ in range(4)]
    for batches in expected[2:]:
        assert_same_batches(batches, listed(resumed))


def test_a_pass_given_up_does_not_count():
    # A data set outlives its splits.
    train = load().train
    gc.collect()
    for _ in range(3):
        next(iter(train))
    first, second = (listed(train) for _ in range(2))
    assert_same_batches(first, listed(load().train))
    assert list(labels_of(first)) != list(labels_of(second))


def test_set_epoch_fixes_the_epoch():
    splits = load()
    uninterrupted = [listed(splits.train) for _ in range(3)]
    splits.set_epoch(1)
    for _ in range(2):
        assert_same_batches(uninterrupted[1], listed(splits.train))
    with pytest.raises(ValueError, match="`epoch` must be at least 0"):
        splits.set_epoch(-1)


@pytest.mark.parametrize("initial_epoch", [0, 2])
def test_fit_sees_the_epochs_in_their_order(initial_epoch):
    seen = []

    def keep(images):
        # Keras also calls it with what is no array, to build the model.
        with contextlib.suppress(TypeError, NotImplementedError):
            seen.append(keras.ops.convert_to_numpy(images))
        return images

    forget_building = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.clear()
    )
    layers = keras.layers
    model = keras.Sequential(
        [layers.Lambda(keep), layers.Flatten(), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True, jit_compile=False)
    model.fit(
        load(augment="flip", initial_epoch=initial_epoch).train,
        epochs=3,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[forget_building],
    )
    train = load(augment="flip").train
    expected = [images for _ in range(3) for images, _ in listed(train)]
    before = len(train) * initial_epoch
    for images, others in zip(seen, expected[before:], strict=True):
        np.testing.assert_array_equal(images, others)


@on_tensorflow
def test_the_end_of_an_epoch_waits_for_no_tuning():
    splits = datasets.load("digits", augment="none")
    for dataset in splits.train, splits.validation, splits.test:
        # Else the iterator, when it is deleted, waits for a thread that
        # sleeps for as long as the epoch has taken.
        assert dataset.options().autotune.enabled is False

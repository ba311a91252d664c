"""NumPy batches: any order of access, passes, and shares of processes."""

import keras
import numpy as np
import pytest
from image_batches import assert_same_batches
from image_batches import joined
from image_batches import random_data
from image_batches import SIZE
from image_batches import training

from keras_wake import datasets
from keras_wake.datasets.numpy_pipeline import ImageBatches
from keras_wake.datasets.numpy_pipeline import TrainingBatches


def epochs(count, **arguments):
    """The batches of the first epochs."""
    batches = training(**arguments)
    return [list(batches) for _ in range(count)]


def one_by_one(batches):
    return [batches[index] for index in range(len(batches))]


def test_batches_do_not_depend_on_the_order_of_access_and_end():
    (expected,) = epochs(1)
    batches = training()
    for index in (3, 1, 0, 2, 3):
        assert_same_batches([batches[index]], [expected[index]])
    for batches in (training(), ImageBatches(random_data(), 16, None)):
        for index in (4, -1):
            with pytest.raises(IndexError, match="There are 4 batches"):
                batches[index]


@pytest.mark.parametrize("given_up_after", [1, 3])
def test_a_pass_given_up_does_not_count(given_up_after):
    batches = training()
    for index in range(given_up_after):
        batches[index]
    for expected in epochs(2):
        assert_same_batches(one_by_one(batches), expected)


def test_a_pass_within_a_pass_changes_nothing_in_it():
    first, second, third = epochs(3)
    batches = training()
    outer = iter(batches)
    assert_same_batches([next(outer), batches[0]], [first[0], first[0]])
    assert_same_batches(list(batches), first)
    assert_same_batches([next(outer), batches[1]], [first[1], first[1]])
    assert_same_batches(list(batches), second)
    assert batches.epoch_counter.epoch == 2
    assert_same_batches(list(batches), third)


def test_pinned_epoch_holds_for_single_batches_at_once():
    _, second, third = epochs(3)
    batches = training()
    batches.epoch_counter.pin(2)
    assert_same_batches([batches[1]], [third[1]])
    batches.epoch_counter.pin(1)
    assert_same_batches([batches[2]], [second[2]])
    for _ in range(2):
        assert_same_batches(one_by_one(batches), second)


def test_the_counter_is_restored():
    batches, other = training(), training()
    list(batches)
    other[0]
    other.epoch_counter.set_state(batches.epoch_counter.get_state())
    assert_same_batches(one_by_one(other), epochs(2)[1])


def keras_passes(batches, shuffle, count, **arguments):
    """What Keras reads in some epochs after it has taken a first batch."""
    seen = []

    class Recorder(TrainingBatches):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append((index, batch))
            return batch

    batches.__class__ = Recorder
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(SIZE)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    model.fit(batches, shuffle=shuffle, epochs=count, verbose=0, **arguments)
    return seen


# There, Keras makes a tf.data pipeline of them, which reads ahead.
not_tensorflow = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="on TensorFlow `load` returns no NumPy batches",
)


@not_tensorflow
def test_fit_shuffling_once_more_keeps_the_epochs_whole():
    batches = training(batch_size=2)
    steps = 25
    with pytest.warns(UserWarning, match="Pass `shuffle=False` to `fit`"):
        seen = keras_passes(batches, True, 3)
    # The first one only built the model.
    assert len(seen) == 1 + 3 * steps
    for epoch, expected in enumerate(epochs(3, batch_size=2)):
        part = dict(seen[1 + epoch * steps :][:steps])
        assert list(part) != sorted(part)
        assert_same_batches([part[i] for i in range(steps)], expected)
    assert batches.epoch_counter.epoch == 3


@not_tensorflow
def test_a_pass_may_take_several_epochs_of_keras():
    batches = training()
    seen = keras_passes(batches, False, 4, steps_per_epoch=2)
    read = [batch for _, batch in seen[1:]]
    assert_same_batches(read, [batch for epoch in epochs(2) for batch in epoch])


def test_keras_gets_no_workers():
    batches = training()
    assert batches.workers == 1 and batches.use_multiprocessing is False
    with pytest.raises(AttributeError):
        batches.workers = 4


@pytest.mark.parametrize("cutmix", [None, 1.0])
@pytest.mark.parametrize("size", [48, 49, 50, 51, 55])
@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 1), (2, 2)])
def test_shares_of_training(shard, size, processes, devices, cutmix):
    arguments = {"num_classes": size, "cutmix": cutmix}
    data = random_data(size)
    whole = list(training(data, **arguments))
    multiple = processes * devices
    count = -(-(size - size % multiple) // 16)
    shares = []
    for process in range(processes):
        shard(process, processes, devices)
        batches = training(data, **arguments)
        shares.append(list(batches))
        assert len(batches) == len(shares[-1]) == count
    for index in range(count):
        parts = [share[index] for share in shares]
        assert len({part[0].shape for part in parts}) == 1
        assert len(parts[0][1]) % devices == 0
        kept = len(whole[index][1]) // multiple * multiple
        expected = [part[:kept] for part in whole[index]]
        assert_same_batches([joined(parts)], [expected])


def test_images_left_out_are_others_in_each_epoch(shard):
    shard(0, 1, 16)
    batches = training()
    missing = [
        set(range(SIZE)) - {label for _, y in batches for label in y}
        for _ in range(3)
    ]
    assert [len(part) for part in missing] == [2, 2, 2]
    assert len(set.union(*missing)) > 2
    assert batches.epoch_counter.epoch == 3


@pytest.mark.parametrize("num_classes", [None, SIZE])
@pytest.mark.parametrize("size", [48, 49, 50])
@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 1), (2, 4)])
def test_shares_of_evaluation(shard, size, processes, devices, num_classes):
    data = random_data(size)
    whole = list(ImageBatches(data, 16, num_classes))
    multiple = processes * devices
    shares = []
    for process in range(processes):
        shard(process, processes, devices)
        batches = ImageBatches(data, 16, num_classes)
        shares.append(list(batches))
        assert len(batches) == len(shares[-1]) == len(whole)
    for index, (images, labels) in enumerate(whole):
        parts = [share[index] for share in shares]
        assert {len(part) for part in parts} == {
            2 if size % multiple == 0 else 3
        }
        assert len(parts[0][1]) % devices == 0
        together = joined(parts)
        count = len(labels)
        np.testing.assert_array_equal(together[0][:count], images)
        np.testing.assert_array_equal(together[1][:count], labels)
        assert len(together[1]) == -(-count // multiple) * multiple
        for position in range(count, len(together[1])):
            np.testing.assert_array_equal(together[0][position], images[0])
            np.testing.assert_array_equal(together[1][position], labels[0])
        if len(together) == 3:
            assert together[2].dtype == np.float32
            padding = len(together[2]) - count
            assert together[2].tolist() == [1.0] * count + [0.0] * padding


def test_shares_that_are_not_even_are_refused(shard):
    both = training(), ImageBatches(random_data(), 16, None)
    # Known only after the data sets are made.
    shard(0, 2, 3)
    message = (
        r"multiple of 6, because 2 process\(es\) with 3 device\(s\) each .*"
        r"Received: batch_size=16\."
    )
    for batches in both:
        for use in (len, lambda each: each[0], lambda each: next(iter(each))):
            with pytest.raises(ValueError, match=message):
                use(batches)
    shard(0, 1, 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        len(batches)


@not_tensorflow
def test_load_refuses_shares_that_are_not_even(shard):
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    shard(0, 1, 3)
    with pytest.raises(ValueError, match="multiple of 3"):
        datasets.load("digits", batch_size=128)
    splits = datasets.load("digits", batch_size=126, drop_remainder=False)
    assert len(splits.train) == 11
    assert len(splits.test[0]) == 3

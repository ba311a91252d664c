"""The checks of data sets and batches, and their messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_wake.data.batches import checked_batch
from keras_wake.data.batches import iterate_batches
from keras_wake.data.batches import iterate_checked


@pytest.fixture
def arrays():
    x = np.random.default_rng(0).random((7, 4)).astype("float32")
    return x, np.arange(7) % 3


class Batches(keras.utils.PyDataset):
    """Three batches, and an error beyond the last as of a real data set."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= 3:
            raise FileNotFoundError(index)
        part = slice(3 * index, 3 * index + 3)
        return self.x[part], self.y[part]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [tf.constant(x), tf.constant(y)],
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(3),
        lambda x, y: [[x[i : i + 3], y[i : i + 3]] for i in (0, 3, 6)],
        lambda x, y: ((x[i : i + 3], y[i : i + 3], None) for i in (0, 3, 6)),
        Batches,
    ],
    ids=["arrays", "tensors", "tf.data", "list", "generator", "PyDataset"],
)
def test_batches_of_every_kind_of_data(arrays, form):
    found = list(iterate_batches(form(*arrays), batch_size=3))
    assert [len(x) for x, _ in found] == [3, 3, 1]
    for part, whole in zip(zip(*found, strict=True), arrays, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole)


def test_a_data_set_without_end_is_refused(arrays):
    endless = tf.data.Dataset.from_tensor_slices(arrays).batch(3).repeat()
    with pytest.raises(ValueError, match=r"never ends.*data.take\(n\)"):
        next(iterate_checked(endless, 3, (0, 1)))


def test_weights_that_are_no_numbers_are_refused(arrays):
    x, y = arrays
    with pytest.raises(ValueError, match="weights of a batch are NaN"):
        list(iterate_batches([(x, y, np.full(len(x), np.nan))]))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_labels_that_do_not_fit_are_no_classes(arrays, dtype):
    x, y = arrays
    with pytest.raises(ValueError, match="label"):
        checked_batch(x, y.astype(dtype) + 2**32, 3, (0, 1), "here")


def test_checked_batches_are_float32_and_one_hot(arrays):
    x, y = arrays
    ((images, labels),) = iterate_checked((x.astype("float64"), y), 3, (0, 1))
    assert keras.backend.standardize_dtype(images.dtype) == "float32"
    np.testing.assert_array_equal(images, x)
    np.testing.assert_array_equal(labels, np.eye(3)[y])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (x[:0], y[:0]),
            ValueError,
            "data set is empty.*no batch",
        ),
        (lambda x, y: [], ValueError, "The data set is empty"),
        (
            lambda x, y: (
                tf.data.Dataset.from_tensor_slices((x, y)).batch(3).take(0)
            ),
            ValueError,
            "The data set is empty",
        ),
        (
            lambda x, y: (x, y[:6]),
            ValueError,
            "must have the same length. Received: 7 images and 6 labels",
        ),
        (lambda x, y: [(x[:2], y)], ValueError, "2 images and 7 labels"),
        (lambda x, y: [(x[:0], y[:0])], ValueError, "size of batch 1 is 0"),
        (
            lambda x, y: 7,
            TypeError,
            r"`data` must be a pair of arrays \(x, y\) or yield batches "
            r"\(images, labels\)\. Received: int",
        ),
        (
            lambda x, y: x,
            TypeError,
            "Received: a ndarray that yields a ndarray",
        ),
        (lambda x, y: (x, 1), TypeError, "Labels must be one .*Received: int"),
        (lambda x, y: (x, None), ValueError, "Labels are missing"),
        (lambda x, y: [{"x": x}], TypeError, "a list that yields a dict"),
        (lambda x, y: [(x,)], TypeError, "a list that yields a tuple"),
        (
            lambda x, y: iter([1, 2]),
            TypeError,
            "a list_iterator that yields a int",
        ),
        (lambda x, y: [(x, None)], ValueError, "Labels are missing"),
        (lambda x, y: [(None, y)], TypeError, "Images must be one tensor"),
        (lambda x, y: [(x, y), (x, y + 1)], ValueError, "label.*of batch 2"),
        (lambda x, y: [(x, y), (x + 1, y)], ValueError, "image.*of batch 2"),
    ],
)
def test_refuses_bad_data(arrays, change, error, message):
    with pytest.raises(error, match=message):
        list(iterate_checked(change(*arrays), 3, (0.0, 1.0)))

"""The checks of data sets, batches and arrays, and their messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_wake.data.arrays import one_hot_labels
from keras_wake.data.batches import iterate_batches
from keras_wake.data.batches import iterate_checked

MISSING = r"Labels are missing: the data must yield \(x, y\)"


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


def in_tensorflow(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(3)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [tf.constant(x), tf.constant(y)],
        in_tensorflow,
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_checked_batches_are_float32_and_one_hot(arrays, dtype):
    x = keras.ops.cast(arrays[0], dtype)
    y = arrays[1]
    numbers = [y.astype(kind) for kind in ("int8", "uint8", "int32", "int64")]
    columns = [part[:, None] for part in numbers]
    one_hot = np.eye(3)[y]
    for given in (*numbers, *columns, one_hot, one_hot.astype("int64")):
        ((images, labels),) = iterate_checked((x, given), 3, (0, 1))
        for part in images, labels:
            assert keras.backend.standardize_dtype(part.dtype) == "float32"
        np.testing.assert_array_equal(images, keras.ops.cast(x, "float32"))
        np.testing.assert_array_equal(labels, np.eye(3)[y])


def test_soft_labels_stay_and_a_label_out_of_range_is_zeros():
    soft = np.array([[0.25, 0.75], [1, 0]])
    np.testing.assert_array_equal(one_hot_labels(soft, 2), soft)
    labels = one_hot_labels(np.array([-1, 3, 2]), 3)
    np.testing.assert_array_equal(labels, [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "data set is empty.*no batch"),
        (lambda x, y: [], "The data set is empty"),
        (lambda x, y: in_tensorflow(x, y).take(0), "The data set is empty"),
        (
            lambda x, y: (x, y[:6]),
            "must have the same length. Received: 7 images and 6 labels",
        ),
        (lambda x, y: [(x[:2], y)], "2 images and 7 labels"),
        (lambda x, y: [(x[:, 0], y)], r"shape \(batch, \.\.\.\)"),
        (lambda x, y: [(x[0, 0], y)], r"shape \(batch, \.\.\.\)"),
        (
            lambda x, y: [(x, np.eye(4)[y])],
            r"class numbers of shape \(batch,\) or one-hot or soft labels of "
            r"shape \(batch, 3\)\. Received: shape \(7, 4\)",
        ),
        (lambda x, y: [(x, y[0])], r"Received: shape \(\)"),
        (
            lambda x, y: [(x, np.zeros((7, 3, 1)))],
            r"Received: shape \(7, 3, 1\)",
        ),
        (lambda x, y: [(x[:0], y[:0])], "size of batch 1 is 0"),
        (lambda x, y: (x, None), MISSING),
        (lambda x, y: [(x, None)], MISSING),
        (lambda x, y: [(x, y), (x, y + 1)], "label.*of batch 2"),
        (lambda x, y: [(x, y), (x + 1, y)], "image.*of batch 2"),
        (lambda x, y: [(x, y + 2**32)], "label"),
        (lambda x, y: [(x, y.astype("uint64") + 2**32)], "label"),
        (lambda x, y: [(x, y, np.nan * x[:, 0])], "weights of a batch are NaN"),
        (
            lambda x, y: in_tensorflow(x, y).repeat(),
            r"never ends.*data.take\(n\)",
        ),
    ],
)
def test_refuses_bad_data(arrays, change, message):
    with pytest.raises(ValueError, match=message):
        list(iterate_checked(change(*arrays), 3, (0.0, 1.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y: 7,
            r"`data` must be a pair of arrays \(x, y\) or yield batches "
            r"\(images, labels\)\. Received: int",
        ),
        (lambda x, y: x, "Received: a ndarray that yields a ndarray"),
        (lambda x, y: (x, 1), "Labels must be one .*Received: int"),
        (lambda x, y: [{"x": x}], "a list that yields a dict"),
        (lambda x, y: [(x,)], "a list that yields a tuple"),
        (lambda x, y: iter([1, 2]), "a list_iterator that yields a int"),
        (lambda x, y: [(None, y)], "Images must be one .*Received: NoneType"),
        (lambda x, y: [({"image": 1}, y)], "Images must be .*Received: dict"),
        (
            lambda x, y: [(x, y.astype("float64"))],
            r"Labels of shape \(7,\) are class numbers and must be integers\. "
            r'Received: dtype float64\. Convert them: `y\.astype\("int32"\)`',
        ),
        (lambda x, y: [(x, np.float32(y[:, None]))], "dtype float32"),
        (lambda x, y: [(x, y > 0)], "must be integers.*dtype bool"),
    ],
)
def test_refuses_data_of_a_wrong_type(arrays, change, message):
    with pytest.raises(TypeError, match=message):
        list(iterate_checked(change(*arrays), 3, (0.0, 1.0)))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_refuses_images_that_are_not_floats(arrays, dtype):
    x, y = arrays
    message = (
        "Images must be floating-point numbers within the bounds of the "
        rf"threat model, \[0, 1\] by default\. Received: dtype {dtype}\. "
        r'Convert them: `x\.astype\("float32"\) / 255`'
    )
    with pytest.raises(TypeError, match=message):
        list(iterate_checked((x.astype(dtype), y), 3, (0, 1)))

"""The checks of images and labels, and their messages."""

import keras
import numpy as np
import pytest

from keras_wake.data.arrays import as_float_images
from keras_wake.data.arrays import one_hot_labels


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_images_of_any_float_become_float32(dtype):
    x = keras.ops.cast([[0.5, 0.25]], dtype)
    images = as_float_images(x)
    assert keras.backend.standardize_dtype(images.dtype) == "float32"
    np.testing.assert_array_equal(images, [[0.5, 0.25]])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_refuses_images_that_are_not_floats(dtype):
    with pytest.raises(
        TypeError,
        match="Images must be floating-point numbers within the bounds of the "
        rf"threat model, \[0, 1\] by default\. Received: dtype {dtype}\. "
        r'Convert them: `x\.astype\("float32"\) / 255`',
    ):
        as_float_images(np.zeros((2, 3), dtype))


def test_refuses_images_that_are_no_batch():
    for x in ([1.0], {"image": 1}, None):
        with pytest.raises(TypeError, match=f"Received: {type(x).__name__}"):
            as_float_images(x)
    for shape in ((), (5,)):
        with pytest.raises(ValueError, match=r"shape \(batch, \.\.\.\)"):
            as_float_images(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_class_numbers_become_one_hot(dtype, shape):
    y = np.array([2, 0, 1], dtype).reshape(shape)
    labels = one_hot_labels(y, 3)
    np.testing.assert_array_equal(labels, np.eye(3)[[2, 0, 1]])
    assert keras.backend.standardize_dtype(labels.dtype) == "float32"


def test_one_hot_and_soft_labels_stay():
    soft = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_array_equal(one_hot_labels(soft, 2), soft)
    one_hot = np.eye(2, dtype="int64")
    np.testing.assert_array_equal(one_hot_labels(one_hot, 2), one_hot)


def test_a_label_out_of_range_is_a_row_of_zeros():
    labels = one_hot_labels(np.array([-1, 3, 2]), 3)
    np.testing.assert_array_equal(labels, [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, ValueError, r"Labels are missing: the data must yield \(x, y\)"),
        (
            np.zeros(5),
            TypeError,
            r"Labels of shape \(5,\) are class numbers and must be integers\. "
            r'Received: dtype float64\. Convert them: `y\.astype\("int32"\)`',
        ),
        (np.zeros((5, 1), "float32"), TypeError, "dtype float32"),
        (np.zeros(5, bool), TypeError, "dtype bool"),
        (
            np.zeros((5, 4), int),
            ValueError,
            r"class numbers of shape \(batch,\) or one-hot or soft labels of "
            r"shape \(batch, 3\)\. Received: shape \(5, 4\)",
        ),
        (np.zeros((5, 3, 1), int), ValueError, r"Received: shape \(5, 3, 1\)"),
        (np.int32(1), ValueError, r"Received: shape \(\)"),
    ],
)
def test_refuses_labels_of_no_known_form(y, error, message):
    with pytest.raises(error, match=message):
        one_hot_labels(y, 3)

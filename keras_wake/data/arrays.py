"""The check of one array: of images, of labels or of sample weights.

The functions here check its kind, dtype and shape, which are known before a
compiled step runs. `keras_wake.data.faults` checks the values, within the step.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake.utils.types import Tensor

# How the names of Keras for these dtypes begin.
INTEGERS = ("int", "uint")
FLOATS = ("float", "bfloat")
NUMBERS = ("bool", *INTEGERS, *FLOATS)


@dataclasses.dataclass(frozen=True)
class ImageShape:
    """The shape of the images that a classifier takes.

    Attributes:
        sizes: Of an image; None where the classifier leaves one open.
        classifier: Its name, for the message.
    """

    sizes: tuple[int | None, ...]
    classifier: str

    def check(self, x: Tensor) -> None:
        """Refuses images of another shape.

        Keras itself would accept some: it adds or drops a last axis of size 1,
        and a `Flatten` takes axes in any order.
        """
        shape = () if rank_is_unknown(x) else tuple(x.shape)
        if self._fits(shape[1:]):
            return
        received = f"shape {shape}. "
        hint = "Resize the images, or build the classifier for their shape."
        if rank_is_unknown(x):
            received, hint = "images", OF_UNKNOWN_RANK
        elif self._fits(shape):
            hint = (
                "Give a single image a batch axis: `x[None]`. Batch a data "
                "set: `dataset.batch(128)`."
            )
        expected = ", ".join(map(str, self.sizes))
        raise ValueError(
            f"Images must have shape (batch, {expected}), as the classifier "
            f"{self.classifier!r} takes them. Received: {received}{hint}"
        )

    def check_in_step(self, x: Tensor) -> tuple[bool | Tensor, tuple]:
        """Compares the sizes that are known only when a compiled step runs.

        Args:
            x: Images that passed `check` when the step was traced.

        Returns:
            Whether the images have the right shape: True, or a tensor where
            TensorFlow learns a size only in the step. And the right shape.
        """
        count, *found = ops.shape(x)
        right: bool | Tensor = True
        shape = [count]
        for size, wanted in zip(found, self.sizes, strict=True):
            if wanted is not None and not isinstance(size, int):
                right = ops.logical_and(right, ops.equal(size, wanted))
            shape.append(size if wanted is None else wanted)
        return right, tuple(shape)

    def _fits(self, sizes: tuple[int | None, ...]) -> bool:
        return len(sizes) == len(self.sizes) and all(
            None in pair or pair[0] == pair[1]
            for pair in zip(sizes, self.sizes, strict=True)
        )


OF_UNKNOWN_RANK = (
    " of unknown rank. Either an earlier call had data of another rank (call "
    "`compile` again), or the data set has no static shape (set it with "
    "`tf.ensure_shape`)."
)


def rank_is_unknown(value: Tensor) -> bool:
    """Whether TensorFlow does not know the rank of a tensor."""
    return getattr(value.shape, "rank", 0) is None


def check_images(x: Any, shape: ImageShape | None = None) -> None:
    """Checks that images are one batch of floating-point numbers.

    Args:
        x: Anything: a tensor, an array, or a `tf.TensorSpec`.
        shape: The shape that the classifier takes. Defaults to `None`: any
            shape with a batch axis.

    Raises:
        TypeError: If they are not floating-point numbers.
        ValueError: If they are not a batch, or not of this shape.
    """
    check_dense("Images", x)
    dtype = dtype_of(x)
    if not dtype.startswith(FLOATS):
        raise TypeError(
            "Images must be floating-point numbers within the bounds of the "
            f"threat model, [0, 1] by default. Received: dtype {dtype}. "
            'Convert them: `x.astype("float32") / 255` for images in '
            "[0, 255], `tf.cast(x, tf.float32) / 255` in a `tf.data` pipeline."
        )
    if shape is not None:
        shape.check(x)
    elif rank_is_unknown(x) or len(x.shape) < 2:
        received = x.shape if rank_is_unknown(x) else tuple(x.shape)
        raise ValueError(
            "Images must have shape (batch, ...). Received: shape "
            f"{received}. Batch the data set."
        )


def as_float_images(x: Tensor, shape: ImageShape | None = None) -> Tensor:
    """Checks images and returns them as float32."""
    check_images(x, shape)
    # On PyTorch, a cast would leave them on the host.
    return ops.convert_to_tensor(x, "float32")


def check_labels(y: Any, num_classes: int | None = None) -> None:
    """Checks the dtype and shape of labels.

    Args:
        y: Anything. Accepted are integers (batch,) or (batch, 1), and one-hot
            or soft labels (batch, K).
        num_classes: K. Defaults to `None`: any number.

    Raises:
        TypeError: If they are no numbers, or class numbers that are not
            integers.
        ValueError: If they are missing or have another shape.
    """
    if y is None:
        raise ValueError("Labels are missing: the data must yield (x, y).")
    check_dense("Labels", y)
    dtype = number_type(y)
    if rank_is_unknown(y):
        raise ValueError(f"Labels{OF_UNKNOWN_RANK}")
    shape = tuple(y.shape)
    if len(shape) == 2 and num_classes in (None, shape[1]):
        return
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            "Labels must be class numbers of shape (batch,) or one-hot or "
            f"soft labels of shape (batch, {num_classes or 'K'}). Received: "
            f"shape {shape}." + ("" if shape else " Batch the data set.")
        )
    if not dtype.startswith(INTEGERS):
        raise TypeError(
            f"Labels of shape {shape} are class numbers and must be integers. "
            f'Received: dtype {dtype}. Convert them: `y.astype("int32")`, in '
            "a `tf.data` pipeline `tf.cast(y, tf.int32)`."
        )


def one_hot_labels(y: Tensor, num_classes: int) -> Tensor:
    """Checks labels and returns them as float32 (batch, K).

    A label out of range becomes a row of zeros, which `count_faults` counts.
    """
    check_labels(y, num_classes)
    if len(y.shape) == 2 and y.shape[1] == num_classes:
        return ops.convert_to_tensor(y, "float32")
    # In int32, 2³² + 1 would become class 1.
    wide = "int64" if number_type(y) in ("int64", "uint64") else "int32"
    labels = ops.reshape(ops.convert_to_tensor(y, wide), (-1,))
    # Not `ops.one_hot`, which treats a label out of range in another way on
    # each backend.
    classes = ops.arange(num_classes, dtype=wide)
    return ops.cast(labels[:, None] == classes[None, :], "float32")


def number_type(y: Tensor) -> str:
    """Keras's name for the dtype of labels, which must be numbers."""
    dtype = dtype_of(y)
    if dtype.startswith(NUMBERS):
        return dtype
    # NumPy's letters for bytes and texts.
    words = dtype == "string" or getattr(y.dtype, "kind", "?") in "SUT"
    raise TypeError(
        "Labels must be class numbers, or one-hot or soft labels. Received: "
        f"{'strings' if words else f'dtype {dtype}'}. Number the classes: "
        "`np.unique(y, return_inverse=True)[1]`."
    )


def check_weights(sample_weight: Tensor) -> None:
    """Checks that sample weights are one number for each image."""
    check_numbers("`sample_weight`", sample_weight)
    shape = tuple(sample_weight.shape)
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            "`sample_weight` must have one number for each image, shape "
            f"(batch,). Received: shape {shape}."
        )


def as_float_weights(sample_weight: Tensor) -> Tensor:
    """Checks sample weights and returns them as float32 (batch,)."""
    check_weights(sample_weight)
    weights = ops.convert_to_tensor(sample_weight, "float32")
    return ops.reshape(weights, (-1,))


def check_lengths(**parts: Tensor | None) -> None:
    """Refuses images, labels and sample weights of different lengths.

    A length that TensorFlow does not know yet is checked in the step.
    """
    known = {
        name.replace("_", " "): part.shape[0]
        for name, part in parts.items()
        if part is not None and part.shape[0] is not None
    }
    if len(set(known.values())) > 1:
        received = " and ".join(f"{n} {name}" for name, n in known.items())
        raise ValueError(
            "Images, labels and sample weights must have the same length. "
            f"Received: {received}."
        )


def as_array(value: Any) -> Any:
    """The NumPy array of a data frame's columns, or `value` unchanged."""
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def check_dense(what: str, value: Any) -> None:
    """Refuses anything but one dense tensor or array, `what` in the message."""
    kind = type(value).__name__
    sparse = (
        any(word in kind for word in ("Sparse", "Ragged"))  # TensorFlow
        or hasattr(value, "nnz")  # SciPy
        or hasattr(value, "nse")  # JAX
        or getattr(value, "is_sparse", False) is True  # PyTorch
        or getattr(value, "is_nested", False) is True
    )
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        hint = ""
        if isinstance(value, (list, tuple)):
            hint = " Make it one: `np.asarray(...)`."
        elif isinstance(value, dict):
            hint = " Take the entry that holds them."
    elif sparse:
        hint = " It is sparse or ragged: make it dense."
    elif np.ma.is_masked(value):
        hint = (
            " Its mask would be ignored: leave the masked samples out, or "
            "fill them (`filled(...)`)."
        )
    else:
        return
    raise TypeError(
        f"{what} must be one tensor or array of shape (batch, ...). "
        f"Received: {kind}.{hint}"
    )


def check_numbers(what: str, value: Any) -> None:
    """Refuses anything but one dense array of numbers."""
    check_dense(what, value)
    dtype = dtype_of(value)
    if not dtype.startswith(NUMBERS):
        raise TypeError(f"{what} must be numbers. Received: dtype {dtype}.")


def dtype_of(value: Tensor) -> str:
    """Keras's name for a dtype; the dtype's own name if Keras has none."""
    try:
        return keras.backend.standardize_dtype(value.dtype)
    except ValueError:
        return str(value.dtype)

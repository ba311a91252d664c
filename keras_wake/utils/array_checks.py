"""Checks of a single array of images, labels or weights."""

from typing import Any

import keras
import numpy as np

# How Keras's names of these dtypes begin.
INTEGERS = ("int", "uint")
FLOATS = ("float", "bfloat")
NUMBERS = ("bool", *INTEGERS, *FLOATS)


def as_array(value: Any) -> Any:
    """Columns of a data frame as a NumPy array; others as they are."""
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def check_dense(what: str, value: Any) -> None:
    """Refuses what is not one tensor or array, with all of its values.

    Args:
        what: What it is, for the message: `"Images"`, `"Labels"`.
        value: Anything.
    """
    must = f"{what} must be one tensor or array of shape (batch, ...)."
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        hint = ""
        if isinstance(value, (list, tuple)):
            hint = " Make it one: `np.asarray(...)`."
        elif isinstance(value, dict):
            hint = " Take the entry that holds them."
        raise TypeError(f"{must} Received: {type(value).__name__}.{hint}")
    kind = type(value).__name__
    sparse = "Sparse" in kind or "Ragged" in kind
    # `nnz`: SciPy. `nse`: JAX. `is_sparse`, `is_nested`: PyTorch.
    sparse = sparse or hasattr(value, "nnz") or hasattr(value, "nse")
    for name in ("is_sparse", "is_nested"):
        sparse = sparse or getattr(value, name, False) is True
    if sparse:
        raise TypeError(
            f"{must} Received: a {kind}, which is sparse or "
            "ragged. Make it dense."
        )
    if np.ma.is_masked(value):
        raise TypeError(
            f"{must} Received: a masked array, whose mask would be ignored. "
            "Leave the masked samples out, or fill them (`filled(...)`)."
        )


def check_numbers(what: str, value: Any) -> None:
    """`check_dense`, and refuses texts and objects."""
    check_dense(what, value)
    dtype = dtype_of(value)
    if not dtype.startswith(NUMBERS):
        raise TypeError(f"{what} must be numbers. Received: dtype {dtype}.")


def dtype_of(value: Any) -> str:
    """A dtype by its Keras name; by its own where Keras has none for it."""
    try:
        return keras.backend.standardize_dtype(value.dtype)
    except ValueError:
        return str(value.dtype)


def check_lengths(**parts: Any) -> None:
    """Refuses images, labels and weights of different lengths.

    Lengths that TensorFlow does not know yet are checked in the step.
    """
    counts = {
        name: part.shape[0] for name, part in parts.items() if part is not None
    }
    known = {name: n for name, n in counts.items() if n is not None}
    if len(set(known.values())) > 1:
        received = " and ".join(
            f"{n} {name.replace('_', ' ')}" for name, n in known.items()
        )
        raise ValueError(
            "Images, labels and sample weights must have the same length. "
            f"Received: {received}."
        )


def int32_labels(y: Any) -> Any:
    """64-bit labels on the host as int32; −1 for those that do not fit.

    JAX would truncate them to 32 bits, so that 2³² + 1 becomes class 1, and
    PyTorch has no uint64.
    """
    if not isinstance(y, np.ndarray) or y.dtype not in ("int64", "uint64"):
        return y
    return np.where((y >= 0) & (y < 2**31), y, -1).astype("int32")


def with_int32_labels(batch: Any) -> Any:
    """A batch (images, labels, ...) with `int32_labels` of its labels."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return batch
    x, y, *rest = batch
    return (x, int32_labels(y), *rest)

"""Checks of what the losses are given, by shape and dtype.

Without them, arrays of other shapes would be broadcast to a wrong loss. They
read no values, so that they add nothing to a compiled step.
"""

import keras
import numpy as np
from keras import ops

from keras_wake.data.arrays import one_hot_labels
from keras_wake.utils import validate
from keras_wake.utils.labels import int32_labels
from keras_wake.utils.types import Tensor


def logits_of(**kwargs: Tensor) -> Tensor:
    """One keyword argument, which must be logits, as float32 (batch, K)."""
    name, values = validate.name_and_value(kwargs)
    values = ops.convert_to_tensor(values)
    shape = tuple(values.shape)
    if len(shape) != 2 or shape[1] == 1:
        hint = ""
        if shape[-1:] == (1,):
            hint = " A single logit z is the pair (0, z)."
        raise ValueError(
            f"`{name}` must have shape (batch, K), with one logit for each of "
            f"K ≥ 2 classes. Received: shape {shape}.{hint}"
        )
    return ops.cast(values, "float32")


def check_same_shape(**kwargs: Tensor) -> None:
    """Refuses two arrays (batch, K) of different shape."""
    names = " and ".join(f"`{name}`" for name in kwargs)
    shape, other = (tuple(values.shape) for values in kwargs.values())
    if any(
        one != two and None not in (one, two)
        for one, two in zip(shape, other, strict=True)
    ):
        raise ValueError(
            f"{names} must have the same shape, (batch, K). "
            f"Received: {shape} and {other}."
        )


def labels_and_logits(
    logits: Tensor, **labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels, one-hot or numbers, and logits as float32 (batch, K).

    Where a class number is out of range, the logits become NaN, so that the
    loss does as well.
    """
    name, values = validate.name_and_value(labels)
    logits = logits_of(logits=logits)
    if not ops.is_tensor(values):
        # In the int32 of JAX, 2³² + 1 would become class 1.
        values = int32_labels(np.asarray(values))
    values = ops.convert_to_tensor(values)
    one_hot = one_hot_labels(values, logits.shape[-1])
    check_same_shape(**{name: one_hot, "logits": logits})
    if tuple(values.shape)[1:] in ((), (1,)):
        known = ops.any(one_hot > 0, axis=-1, keepdims=True)
        logits = ops.where(known, logits, float("nan"))
    return one_hot, logits


def soft_labels(labels: Tensor) -> Tensor:
    """Labels (batch, K), cast to float32 if they are integers."""
    if not hasattr(labels, "shape"):
        labels = ops.convert_to_tensor(labels)
    shape = tuple(labels.shape)
    if len(shape) != 2 or shape[1] == 1:
        raise ValueError(
            "`labels` must be one-hot or soft labels of shape (batch, K). "
            f"Received: shape {shape}. Class numbers become one-hot labels "
            "by `keras.ops.one_hot(labels, num_classes)`."
        )
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if keras.backend.is_float_dtype(dtype):
        return labels
    return ops.cast(labels, "float32")

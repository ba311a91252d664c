"""Class numbers of 64 bits, which JAX and PyTorch cannot take as they are."""

from typing import Any

import numpy as np

from keras_wake.utils.types import Tensor


def int32_labels(y: Tensor) -> Tensor:
    """NumPy's 64-bit labels as int32; −1 for those that do not fit.

    JAX would cut them off, so that 2³² + 1 becomes class 1, and PyTorch has
    no uint64. Other labels are returned unchanged.
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

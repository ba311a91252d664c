"""Batches of images and labels from whatever a user hands in as data."""

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_wake import _faults
from keras_wake import _inputs


def batches(data: Any, batch_size: int = 128) -> Iterator[tuple[Any, Any]]:
    """Yields (images, labels) from arrays or from anything that yields them.

    Args:
        data: Pair of arrays (x, y), a data set, or an iterable of batches.
        batch_size: How arrays are cut. Defaults to `128`.

    Raises:
        ValueError: If there is nothing to yield.
        TypeError: If `data` is neither.
    """
    if _is_pair_of_arrays(data):
        x, y = data
        _check_lengths(x, y)
        starts = range(0, len(x), batch_size)
        pairs: Iterable = (
            (x[i : i + batch_size], y[i : i + batch_size]) for i in starts
        )
    elif hasattr(data, "__iter__"):
        pairs = data
    else:
        raise TypeError(
            "`data` must be a pair of arrays (x, y) or yield batches "
            "(images, labels). "
            f"Received: {type(data).__name__}."
        )
    empty = True
    for batch in pairs:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(
                "`data` must be a pair of arrays (x, y) or yield batches "
                f"(images, labels). Received: a {type(data).__name__} that "
                f"yields a {type(batch).__name__}."
            )
        images, labels = _without_padding(*batch[:3])
        if len(batch) > 2 and len(images) == 0:
            continue  # A batch of nothing but padding.
        empty = False
        yield images, labels
    if empty:
        raise ValueError("The data set is empty: it yields no batch.")


def _never_ends(data: Any) -> bool:
    """Whether a `tf.data.Dataset` says so: −1 stands for infinity."""
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _without_padding(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
    """The images of a batch whose weight is not 0."""
    if weights is None:
        return x, y
    weights = ops.convert_to_numpy(weights)
    if not np.isfinite(weights).all():
        raise ValueError("The sample weights of a batch are NaN or infinite.")
    present = np.flatnonzero(weights)
    if len(present) == len(x):
        return x, y
    return ops.take(x, present, axis=0), ops.take(y, present, axis=0)


def check_reusable(owner: str, data: Any) -> None:
    """Refuses what gives its batches only once, where they are needed again."""
    if hasattr(data, "__next__"):
        raise ValueError(
            f"`{owner}` needs its data more than once, and this "
            f"{type(data).__name__} gives them only once. Pass "
            f"`{owner}(data=(x, y))` or a data set that can be read again."
        )


def _is_pair_of_arrays(data: Any) -> bool:
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(len(getattr(part, "shape", ())) > 0 for part in data)
    )


def checked_batches(
    data: Any,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int = 128,
) -> Iterator[tuple[Any, Any]]:
    """`batches`, as float32 images and (batch, K) labels, values checked."""
    if _never_ends(data):
        raise ValueError(
            "The data set never ends, as after `repeat()`. Pass one that ends, "
            "such as `data.take(n)` with a number of batches."
        )
    for number, (x, y) in enumerate(batches(data, batch_size), start=1):
        where = f"of batch {number}"
        yield checked_batch(x, y, num_classes, bounds, where)


def checked_batch(
    x: Any, y: Any, num_classes: int, bounds: tuple[float, float], where: str
) -> tuple[Any, Any]:
    """One batch as float32 images and (batch, K) labels, values checked."""
    x = _inputs.check_images(x if x is None else ops.convert_to_tensor(x))
    if hasattr(y, "dtype"):
        _inputs.number_type(y)
    if isinstance(y, np.ndarray) and y.dtype in ("int64", "uint64"):
        # Before JAX cuts them off to 32 bits.
        y = np.where((y >= 0) & (y < num_classes), y, -1).astype("int32")
    y = y if y is None else ops.convert_to_tensor(y)
    labels = _inputs.one_hot_labels(y, num_classes)
    _check_lengths(x, labels)
    if len(x) == 0:
        raise ValueError(f"There are no images: the size {where} is 0.")
    faults = ops.convert_to_numpy(_faults.count_faults(x, labels, bounds))
    _faults.raise_for_faults(faults, bounds, num_classes, where)
    return x, labels


def _check_lengths(x: Any, y: Any) -> None:
    if len(x) != len(y):
        raise ValueError(
            "Images and labels must be equally many. Received: "
            f"{len(x)} images and {len(y)} labels."
        )

"""Batches of images and labels from whatever a user hands in as data."""

import numbers
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
    pair = _pair_of_arrays(data)
    if pair is not None:
        x, y = pair
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


def _pair_of_arrays(data: Any) -> tuple[Any, Any] | None:
    """Images and labels, lists of them made arrays; None for batches."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return None
    if all(_has_axes(part) for part in data):
        return data[0], data[1]
    x, y = data
    # Labels tell a list of them from a batch of a list of batches.
    y = y if _has_axes(y) else _array_of_labels(y)
    if y is None or not (_has_axes(x) or isinstance(x, (list, tuple))):
        return None
    return as_array(x), y


def _has_axes(part: Any) -> bool:
    return len(getattr(part, "shape", ())) > 0


def _array_of_labels(y: Any) -> np.ndarray | None:
    """A list of class numbers, or of lists of numbers, as an array."""
    first = y[0] if isinstance(y, (list, tuple)) and len(y) else None
    row = first[0] if isinstance(first, (list, tuple)) and first else first
    return np.array(y) if isinstance(row, numbers.Real) else None


def as_array(x: Any) -> Any:
    """Images, an array of them where they are in a list."""
    if not isinstance(x, (list, tuple)):
        return x
    try:
        return np.stack([np.asarray(image) for image in x])
    except ValueError as error:
        raise ValueError(
            "A list of images must hold at least one, all of one shape. "
            f"Received: a list of {len(x)}. {error}"
        ) from error


def checked_batches(
    data: Any,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int = 128,
    classifier: Any = None,
) -> Iterator[tuple[Any, Any]]:
    """`batches`, as float32 images and (batch, K) labels, values checked.

    With a checked `classifier`, images must have as many axes as it takes.
    """
    if _never_ends(data):
        raise ValueError(
            "The data set never ends, as after `repeat()`. Pass one that ends, "
            "such as `data.take(n)` with a number of batches."
        )
    pair = _pair_of_arrays(data)
    unequal = pair is not None and len(pair[0]) != len(pair[1])
    if pair is not None and unequal and classifier is not None:
        # Without a batch axis it is the height of an image.
        _inputs.check_rank(pair[0], classifier)
    for number, (x, y) in enumerate(batches(data, batch_size), start=1):
        where = f"of batch {number}"
        yield checked_batch(x, y, num_classes, bounds, where, classifier)


def checked_batch(
    x: Any,
    y: Any,
    num_classes: int,
    bounds: tuple[float, float],
    where: str,
    classifier: Any = None,
) -> tuple[Any, Any]:
    """One batch as float32 images and (batch, K) labels, values checked."""
    x = as_array(x)
    x = x if x is None else ops.convert_to_tensor(x)
    if x is not None and classifier is not None:
        _inputs.check_rank(x, classifier)
    x = _inputs.check_images(x)
    if isinstance(y, (list, tuple)):
        y = np.array(y)
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

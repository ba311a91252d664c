"""Batches of images and labels from whatever a user hands in as data."""

import itertools
import math
import numbers
import operator
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake.data import fault_counts
from keras_wake.data import input_checks
from keras_wake.data.image_shape import ImageShape
from keras_wake.utils import array_checks


def batches(
    data: Any,
    batch_size: int = 128,
    shape: ImageShape | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yields (images, labels) from arrays or from anything that yields them.

    Args:
        data: Pair of arrays (x, y), a data set, or an iterable of batches.
        batch_size: How arrays are cut. Defaults to `128`.
        shape: What the classifier takes, checked before arrays are cut.
            Defaults to `None`: any batch.

    Raises:
        ValueError: If there is nothing to yield.
        TypeError: If `data` is neither.
    """
    pair = _as_pair_of_arrays(data)
    if pair is not None:
        x, y = pair
        input_checks.check_images(x, shape)
        if y is None:
            raise ValueError("Labels are missing: the data must be (x, y).")
        array_checks.check_dense("Labels", y)
        if len(y.shape) == 0:
            raise ValueError(
                "Labels must have shape (batch,) or (batch, K). Received: "
                "shape ()."
            )
        array_checks.check_lengths(images=x, labels=y)
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
        check_batch(data, batch)
        images, labels = _without_padding(*batch[:3])
        if len(batch) > 2 and len(images) == 0:
            continue  # A batch of nothing but padding.
        empty = False
        yield images, labels
    if empty:
        raise ValueError("The data set is empty: it yields no batch.")


def check_batch(data: Any, batch: Any) -> None:
    """Refuses what `data` yields if it is no pair of images and labels."""
    is_list = isinstance(batch, (tuple, list))
    # A list [images, labels] yields the list of images, which must not pass
    # as a batch.
    longest = 3 if isinstance(data, (tuple, list)) else math.inf
    if is_list and 2 <= len(batch) <= longest:
        return
    kind = type(batch).__name__
    hint = ""
    if isinstance(batch, dict):
        hint = ' Take its entries: `(batch["image"], batch["label"])`.'
    elif hasattr(batch, "shape"):
        hint = " Labels are missing."
    elif is_list:
        kind += f" of length {len(batch)}"
    raise TypeError(
        "`data` must be a pair of arrays (x, y) or yield batches (images, "
        f"labels). Received: a {type(data).__name__} that yields a {kind}."
        f"{hint}"
    )


def check_ends(
    data: Any,
    advice: str = "Pass one that ends, such as `data.take(n)` with a number "
    "of batches.",
) -> None:
    """Refuses data that are known to be infinite.

    Of a generator or a `DataLoader` over an iterable it is not known.
    """
    if _never_ends(data):
        raise ValueError(
            f"The data set never ends, as after `repeat()`. {advice}"
        )


def _never_ends(data: Any) -> bool:
    """Whether the data are known to be infinite."""
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality):
        return int(cardinality()) == -1  # Stands for infinity.
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    if isinstance(data, itertools.repeat):
        # `repeat(batch, times)` has a length hint.
        return operator.length_hint(data, -1) == -1
    return isinstance(data, (itertools.cycle, itertools.count))


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


def _as_pair_of_arrays(data: Any) -> tuple[Any, Any] | None:
    """(x, y), if `data` are meant to be that; lists of numbers as arrays."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return None
    x, y = map(array_checks.as_array, data)
    # Labels show that this is a pair (x, y), and not a list of two batches.
    labels = _array_of_labels(y)
    if labels is not None or hasattr(y, "shape"):
        return images_of(x), y if labels is None else labels
    return (x, y) if hasattr(x, "shape") else None


def _array_of_labels(y: Any) -> np.ndarray | None:
    """A list of class numbers, or of lists of numbers, as an array."""
    first = y[0] if isinstance(y, (list, tuple)) and len(y) else None
    row = first[0] if isinstance(first, (list, tuple)) and first else first
    return np.array(y) if isinstance(row, numbers.Real) else None


def images_of(x: Any) -> Any:
    """Images, an array of them where they are in a list."""
    if not isinstance(x, (list, tuple)):
        return array_checks.as_array(x)
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
    shape: ImageShape | None = None,
) -> Iterator[tuple[Any, Any]]:
    """`batches`, as float32 images and (batch, K) labels, values checked."""
    check_ends(data)
    pairs = batches(data, batch_size, shape)
    for number, (x, y) in enumerate(pairs, start=1):
        where = f"of batch {number}"
        yield checked_batch(x, y, num_classes, bounds, where, shape)


def checked_batch(
    x: Any,
    y: Any,
    num_classes: int,
    bounds: tuple[float, float],
    where: str,
    shape: ImageShape | None = None,
) -> tuple[Any, Any]:
    """One batch as float32 images and (batch, K) labels, values checked."""
    x, labels = images_of(x), _array_of_labels(y)
    y = array_checks.as_array(y) if labels is None else labels
    input_checks.check_images(x, shape)
    input_checks.check_labels(y, num_classes)
    array_checks.check_lengths(images=x, labels=y)
    x = input_checks.as_float_images(ops.convert_to_tensor(x))
    y = ops.convert_to_tensor(array_checks.int32_labels(y))
    labels = input_checks.one_hot_labels(y, num_classes)
    if len(x) == 0:
        raise ValueError(f"There are no images: the size {where} is 0.")
    faults = ops.convert_to_numpy(fault_counts.count_faults(x, labels, bounds))
    fault_counts.raise_for_faults(faults, bounds, num_classes, where)
    return x, labels

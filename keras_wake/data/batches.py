"""The checks of a data set and of its batches, and the way through them.

A data set is a pair of arrays (x, y), or anything that yields batches (images,
labels) or (images, labels, sample_weight).
"""

import contextlib
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

from keras_wake.data import arrays
from keras_wake.data import faults
from keras_wake.data.arrays import ImageShape
from keras_wake.utils.labels import int32_labels
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor

NO_DATA = (
    "`data` must be a pair of arrays (x, y) or yield batches (images, labels)."
)


def iterate_batches(
    data: Dataset,
    batch_size: int = 128,
    shape: ImageShape | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches (images, labels) of a data set.

    Images of sample weight 0 are left out.

    Args:
        data: The data set.
        batch_size: Images per batch where `data` are arrays. Defaults to
            `128`.
        shape: The shape that the classifier takes, checked before arrays are
            cut into batches. Defaults to `None`: any shape.

    Raises:
        ValueError: If there is nothing to yield.
        TypeError: If `data` is no data set.
    """
    pair = _as_pair_of_arrays(data)
    if pair is None and not isinstance(data, Iterable):
        raise TypeError(f"{NO_DATA} Received: {type(data).__name__}.")
    empty = True
    for batch in data if pair is None else _cut(*pair, batch_size, shape):
        check_structure(data, batch)
        images, labels = _without_padding(*batch[:3])
        if len(batch) > 2 and len(images) == 0:
            continue  # All its images have weight 0.
        empty = False
        yield images, labels
    if empty:
        raise ValueError("The data set is empty: it yields no batch.")


def _cut(
    x: Tensor, y: Tensor, batch_size: int, shape: ImageShape | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Checks a pair of arrays and cuts it into batches."""
    arrays.check_images(x, shape)
    arrays.check_labels(y)
    arrays.check_lengths(images=x, labels=y)
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        yield x[part], y[part]


def check_structure(data: Dataset, batch: Any) -> None:
    """Refuses a batch of `data` that is no pair of images and labels."""
    is_list = isinstance(batch, (tuple, list))
    # `[list_of_images, labels]` yields a long list, which is no batch.
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
        f"{NO_DATA} Received: a {type(data).__name__} that yields a {kind}."
        f"{hint}"
    )


def check_ends(
    data: Dataset,
    advice: str = "Pass one that ends, such as `data.take(n)` with a number "
    "of batches.",
) -> None:
    """Refuses a data set that is known to be infinite.

    Of a generator, or a `DataLoader` over an iterable, this is not known.
    """
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality):
        endless = int(cardinality()) == -1  # TensorFlow's sign for infinity.
    elif isinstance(data, keras.utils.PyDataset):
        endless = data.num_batches is None
    elif isinstance(data, itertools.repeat):
        # `repeat(batch, times)` has a length hint.
        endless = operator.length_hint(data, -1) == -1
    else:
        endless = isinstance(data, (itertools.cycle, itertools.count))
    if endless:
        raise ValueError(
            f"The data set never ends, as after `repeat()`. {advice}"
        )


def number_of_batches(data: Dataset) -> int | None:
    """The number of batches, where it is known without taking one."""
    count = data.cardinality() if hasattr(data, "cardinality") else None
    if count is None and hasattr(data, "__len__"):
        # `len` of a `DataLoader` over an `IterableDataset` raises.
        with contextlib.suppress(TypeError):
            count = len(data)
    return int(count) if count is not None and int(count) > 0 else None


def _without_padding(
    x: Tensor, y: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The images of a batch whose weight is not 0, and their labels."""
    if weights is None:
        return x, y
    weights = ops.convert_to_numpy(weights)
    if not np.isfinite(weights).all():
        raise ValueError("The sample weights of a batch are NaN or infinite.")
    present = np.flatnonzero(weights)
    if len(present) == len(x):
        return x, y
    return ops.take(x, present, axis=0), ops.take(y, present, axis=0)


def check_reusable(owner: str, data: Dataset) -> None:
    """Refuses an iterator, which gives its batches only once."""
    if isinstance(data, Iterator):
        raise ValueError(
            f"`{owner}` needs its data more than once, and this "
            f"{type(data).__name__} gives them only once. Pass "
            f"`{owner}(data=(x, y))` or a data set that can be read again."
        )


def _as_pair_of_arrays(data: Dataset) -> tuple[Tensor, Tensor] | None:
    """(x, y) if `data` is such a pair, with lists of numbers as arrays."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return None
    x, y = arrays.as_array(data[0]), _labels_of(data[1])
    # The labels tell a pair (x, y) from a list of two batches.
    if hasattr(y, "shape"):
        return images_of(x), y
    return (x, y) if hasattr(x, "shape") else None


def _labels_of(y: Any) -> Tensor:
    """Labels, an array of them where they are in a list or in lists."""
    first = y[0] if isinstance(y, (list, tuple)) and len(y) else None
    row = first[0] if isinstance(first, (list, tuple)) and first else first
    return np.array(y) if isinstance(row, numbers.Real) else arrays.as_array(y)


def images_of(x: Any) -> Tensor:
    """Images, an array of them where they are in a list."""
    if isinstance(x, (list, tuple)):
        rows = [np.asarray(image) for image in x]
        if len({row.shape for row in rows}) != 1:
            raise ValueError(
                "A list of images must hold at least one, all of one shape. "
                f"Received: shapes {sorted({row.shape for row in rows})}."
            )
        return np.stack(rows)
    return arrays.as_array(x)


def iterate_checked(
    data: Dataset,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int = 128,
    shape: ImageShape | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches as `checked_batch` returns them."""
    check_ends(data)
    pairs = iterate_batches(data, batch_size, shape)
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
) -> tuple[Tensor, Tensor]:
    """One batch as float32 images and labels (batch, K), values checked."""
    x, y = images_of(x), _labels_of(y)
    arrays.check_images(x, shape)
    arrays.check_labels(y, num_classes)
    arrays.check_lengths(images=x, labels=y)
    x = arrays.as_float_images(ops.convert_to_tensor(x))
    y = ops.convert_to_tensor(int32_labels(y))
    labels = arrays.one_hot_labels(y, num_classes)
    if len(x) == 0:
        raise ValueError(f"There are no images: the size {where} is 0.")
    counts = ops.convert_to_numpy(faults.count_faults(x, labels, bounds))
    faults.raise_for_faults(counts, bounds, num_classes, where)
    return x, labels

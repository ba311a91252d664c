"""Batches of arrays that processes share, and the devices of JAX.

All processes have the same arrays, `batch_size` counts the images of all of
them together, and each process makes its share of each batch. Keras itself
would take the arrays of each process for another part of the data, and JAX
refuses a batch that its devices cannot divide evenly. Processes of PyTorch may
have unequal shares, but none without an image.
"""

import copy
import math
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_wake import backend
from keras_wake.data.arrays import check_lengths
from keras_wake.data.batches import number_of_batches
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor


class ShardedBatches(keras.utils.PyDataset):
    """Base of data sets in memory whose batches processes and devices share.

    Args:
        count: Number of images.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        training: What to do with the last images, if the devices of JAX
            cannot divide them evenly or they are fewer than the processes of
            PyTorch. True leaves them out. False fills the last batch up with
            its first image, at a weight of 0.
    """

    def __init__(self, count: int, batch_size: int, training: bool):
        super().__init__()
        # Whether this process makes all of each batch.
        self.whole = False
        self.batch_size = batch_size
        self._count = count
        self.training = training

    # Keras fetches ahead with several threads. If a pass is broken off, the
    # batches that were fetched for it would appear in the next pass; and a
    # fork of a process that has used TensorFlow or PyTorch hangs.

    @property
    def workers(self) -> int:
        """Always 1, and cannot be changed."""
        return 1

    @property
    def use_multiprocessing(self) -> bool:
        """Always False, and cannot be changed."""
        return False

    def __len__(self) -> int:
        return math.ceil(self._total() / self.batch_size)

    def _shard(self) -> tuple[int, int, int]:
        # Asked each time: it is known once the processes know of each other.
        return (0, 1, 1) if self.whole else backend.data_shard()

    def _total(self) -> int:
        """Number of images in all batches of all processes."""
        _, processes, devices = self._shard()
        sharers = processes * devices
        if backend.divides_evenly and self.batch_size % sharers:
            raise ValueError(
                f"`batch_size` must be a multiple of {sharers}, because "
                f"{processes} process(es) with {devices} device(s) each share "
                f"a batch evenly. Received: batch_size={self.batch_size}."
            )
        if self.batch_size < sharers:
            raise ValueError(
                f"`batch_size` must be at least {sharers}, because "
                f"{processes} processes share a batch. Received: "
                f"batch_size={self.batch_size}."
            )
        if self.training and self._count < sharers:
            raise ValueError(
                f"The {self._count} training image(s) are fewer than the "
                f"{sharers} devices that share a batch. Use more images or "
                "fewer devices."
            )
        rest = self._count % sharers
        if not backend.divides_evenly:
            # Only a last batch that is too small for all is a problem.
            last = self._count % self.batch_size
            rest = last if last < sharers else 0
        padded = 0 if self.training or not rest else sharers
        return self._count - rest + padded

    def _share(self, index: int) -> tuple[Array, Array | None]:
        """This process's share of batch `index`.

        Returns:
            The numbers of its images, from 0 to `count` - 1; and their weights
            if any batch is filled up, else None.
        """
        total = self._total()
        start = index * self.batch_size
        if not 0 <= start < total:
            raise IndexError(
                f"There are {len(self)} batches. Received: index {index}."
            )
        process, processes, _ = self._shard()
        size = min(start + self.batch_size, total) - start
        first, last = (
            start + size * number // processes
            for number in (process, process + 1)
        )
        numbers = np.arange(first, last)
        if total <= self._count:
            return numbers, None
        real = numbers < self._count
        return np.where(real, numbers, start), real.astype(np.float32)


def whole_batches(data: Dataset) -> Dataset:
    """`data`, of which this process gets all, also where several share it."""
    if not isinstance(data, ShardedBatches):
        return data
    data = copy.copy(data)
    data.whole = True
    return data


def data_of_all(model: Any, data: Dataset, owner: str) -> Dataset:
    """`data`, of which each process gets all.

    Args:
        model: The `WakeModel`.
        data: Arrays (x, y) or a data set.
        owner: What needs them, for the message.

    Raises:
        ValueError: If each of several has a share, or may have other images.
    """
    _, processes, devices = backend.data_shard()
    if isinstance(data, ShardedBatches) and processes * devices > 1:
        return whole_batches(data)
    if processes == 1:
        return data
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        if all(map(_is_array, data)):
            _check_same(model, _arrays(*data))
            return data
    raise ValueError(
        f"`{owner}` needs the same images in each of several processes. Pass "
        "`data=` arrays (x, y), or data of `keras_wake.datasets.load`. "
        f"Received: {type(data).__name__}."
    )


class ShardedArrays(ShardedBatches):
    """Batches of the arrays `(x, y)` or `(x, y, sample_weight)`.

    `new_seed` is called before each pass over shuffled images, and returns the
    same number in all processes; without it, they are not shuffled.
    """

    def __init__(
        self,
        arrays: tuple[Array, ...],
        batch_size: int,
        training: bool,
        new_seed: Callable[[], int] | None = None,
    ):
        super().__init__(len(arrays[0]), batch_size, training)
        self._arrays = arrays
        self._new_seed = new_seed
        self._order = np.arange(len(arrays[0]))

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        if index == 0 and self._new_seed is not None:
            rng = np.random.default_rng(self._new_seed())
            self._order = rng.permutation(len(self._order))
        numbers, real = self._share(index)
        positions = self._order[numbers]
        batch = tuple(array[positions] for array in self._arrays)
        if real is None:
            return batch
        weights = batch[2] if len(batch) > 2 else 1
        return *batch[:2], np.where(real, weights, 0).astype(np.float32)


def shard_arrays(model: Any, given: dict[str, Any], training: bool) -> None:
    """Replaces arrays among the arguments of `fit` or `evaluate`, `given`.

    Does nothing where one device trains alone. A data set of the user's own
    is left as it is: each process has its part of the batches.
    """
    _, processes, devices = backend.data_shard()
    if processes * devices == 1:
        return
    size = given.get("batch_size") or 32
    x, y = given.get("x"), given.get("y")
    if _is_array(x) and _is_array(y):
        arrays = _arrays(x, y, given.pop("sample_weight", None))
        split = given.pop("validation_split", None)
        if split and given.get("validation_data") is None:
            at = math.floor(len(arrays[0]) * (1 - split))
            given["validation_data"] = tuple(array[at:] for array in arrays)
            arrays = tuple(array[:at] for array in arrays)
        _check_same(model, arrays)
        shuffle = training and given.get("shuffle", True)
        seeds = _seeds(model) if shuffle else None
        given["x"] = ShardedArrays(arrays, size, training, seeds)
        given.pop("y")
        given.pop("batch_size", None)
    elif not (given.get("steps_per_epoch") or given.get("steps")):
        _check_same_length(model, "x", x)
    held_out = given.get("validation_data")
    if isinstance(held_out, (tuple, list)) and all(map(_is_array, held_out)):
        arrays = _arrays(*held_out)
        _check_same(model, arrays)
        own = given.pop("validation_batch_size", None)
        given["validation_data"] = ShardedArrays(arrays, own or size, False)
    elif held_out is not None and not given.get("validation_steps"):
        _check_same_length(model, "validation_data", held_out)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def _arrays(
    x: Tensor, y: Tensor, weights: Tensor | None = None
) -> tuple[Array, ...]:
    check_lengths(images=x, labels=y, sample_weights=weights)
    given = (x, y) if weights is None else (x, y, weights)
    return tuple(
        value if isinstance(value, np.ndarray) else backend.to_numpy(value)
        for value in given
    )


def _check_same(model: Any, arrays: tuple[Array, ...]) -> None:
    """Refuses arrays whose labels differ between processes.

    Each process must have all of the data. (Images are not compared.)
    """
    labels = np.ascontiguousarray(arrays[1])
    # Processes exchange int32.
    mine = [len(labels), zlib.crc32(labels.tobytes()) & 0x7FFFFFFF]
    found = model.of_all_processes(np.array(mine, np.int32))
    if any((other != found[0]).any() for other in found):
        counts = [int(other[0]) for other in found]
        raise ValueError(
            "Every process must be given the same arrays, of which it takes "
            "its share of each batch. Received: arrays with other labels, of "
            f"lengths {counts}. Pass the whole arrays to all of them, or "
            "data that are divided already as a `keras.utils.PyDataset`."
        )


def _check_same_length(model: Any, name: str, data: Dataset) -> None:
    """Refuses data that end earlier in one process than in another."""
    mine = number_of_batches(data)
    found = model.of_all_processes(np.int32(-1 if mine is None else mine))
    counts = [int(count) for count in found]
    if len(set(counts)) > 1:
        raise ValueError(
            "Every process must take the same number of batches: a step waits "
            f"for all. Received: {counts} batches in `{name}` (-1 where the "
            "length is not known)."
        )


def _seeds(model: Any) -> Callable[[], int]:
    def new_seed() -> int:
        # From NumPy's global state, which a backup does not keep: a resumed
        # run has another order.
        drawn = np.random.randint(2**31 - 1)
        return int(model.of_all_processes(np.int32(drawn))[0])

    return new_seed

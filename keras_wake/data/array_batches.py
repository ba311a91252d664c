"""Arrays given to `fit` where JAX processes or devices share each batch.

Keras would take the arrays of each process for its own part, so that the
batch grew with the number of processes, and JAX would refuse a batch that its
devices cannot divide evenly. Here all processes have the same arrays, the
batch size is that of all of them together, and an uneven rest is seen to as
in the data sets of `keras_wake.datasets`.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_wake import backend


class Batches(keras.utils.PyDataset):
    """How processes and devices share the batches of what is in memory.

    Args:
        batch_size: Images per batch of all processes together.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    # Keras's queue for several workers keeps batches of a pass that was
    # given up for the next one. A batch takes a millisecond to make.

    @property
    def workers(self) -> int:
        """Always 1, and cannot be changed."""
        return 1

    @property
    def use_multiprocessing(self) -> bool:
        """Always False, and cannot be changed."""
        return False

    def __len__(self) -> int:
        return math.ceil(self._total() / self._batch_size)

    def _total(self) -> int:
        """Number of images that all batches have together."""
        raise NotImplementedError

    def _images_per_step(self) -> int:
        """What a batch of all processes must be a multiple of.

        Asked for anew each time, because it is known only once
        `keras.distribution` is set up.
        """
        _, processes, devices = backend.data_shard()
        multiple = processes * devices
        if self._batch_size % multiple:
            below = self._batch_size // multiple * multiple
            nearest = f"{below} or " * (below > 0) + str(below + multiple)
            raise ValueError(
                f"`batch_size` must be a multiple of {multiple}, because "
                f"{processes} process(es) with {devices} device(s) each share "
                f"a batch evenly. Received: batch_size={self._batch_size}. "
                f"Choose {nearest}."
            )
        return multiple

    def _share(self, index: int) -> np.ndarray:
        """The part of batch `index` that is for this process.

        Returns:
            Numbers of images, counted over all batches of all processes.
        """
        total = self._total()
        start = index * self._batch_size
        if not 0 <= start < total:
            raise IndexError(
                f"There are {len(self)} batches. Received: index {index}."
            )
        process, processes, _ = backend.data_shard()
        size = (min(start + self._batch_size, total) - start) // processes
        return start + process * size + np.arange(size)


class ArrayBatches(Batches):
    """Batches `(x, y)` or `(x, y, sample_weight)` of arrays.

    Args:
        arrays: Images, labels and, if there are any, weights.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        training: True to leave an uneven rest out, another in each epoch if
            the images are shuffled. False to fill the last batch up with its
            first image, at a weight of 0.
        new_seed: Returns a number that is the same in all processes and is
            asked for before each pass over shuffled images. Defaults to
            None, for the order in which they are.
    """

    def __init__(
        self,
        arrays: tuple[np.ndarray, ...],
        batch_size: int,
        training: bool,
        new_seed: Callable[[], int] | None = None,
    ):
        super().__init__(batch_size)
        self._arrays = arrays
        self._training = training
        self._new_seed = new_seed
        self._order = np.arange(len(arrays[0]))

    def _total(self) -> int:
        multiple = self._images_per_step()
        count = len(self._order)
        if not self._training:
            return math.ceil(count / multiple) * multiple
        if count < multiple:
            raise ValueError(
                f"The {count} training image(s) are fewer than the "
                f"{multiple} devices that share a batch. Use more images or "
                "fewer devices."
            )
        return count // multiple * multiple

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        if index == 0 and self._new_seed is not None:
            rng = np.random.default_rng(self._new_seed())
            self._order = rng.permutation(len(self._order))
        numbers = self._share(index)
        real = numbers < len(self._order)
        positions = self._order[
            np.where(real, numbers, index * self._batch_size)
        ]
        batch = tuple(array[positions] for array in self._arrays)
        if self._total() <= len(self._order):
            return batch
        weights = batch[2] if len(batch) > 2 else np.ones(len(real))
        weights = np.where(real, weights, 0).astype(np.float32)
        return (*batch[:2], weights)


def shared(model: Any, given: dict[str, Any], training: bool) -> None:
    """Replaces arrays among the arguments of `fit` or `evaluate`.

    Does nothing where one device trains alone, and to what is not an array:
    a data set of the user's own is each process's part of the batches.

    Args:
        model: The `WakeModel`.
        given: The arguments by name, which are changed.
        training: Whether they are those of `fit`.

    Raises:
        ValueError: If processes were given different arrays, for a batch
            size that cannot be divided.
    """
    _, processes, devices = backend.data_shard()
    if processes * devices == 1:
        return
    size = given.get("batch_size") or 32
    x, y = given.get("x"), given.get("y")
    if _is_array(x) and _is_array(y):
        arrays = _arrays(x, y, given.pop("sample_weight", None))
        rest = None
        split = given.pop("validation_split", None)
        if split and given.get("validation_data") is None:
            at = math.floor(len(arrays[0]) * (1 - split))
            rest = tuple(array[at:] for array in arrays)
            arrays = tuple(array[:at] for array in arrays)
        _check_same(model, arrays)
        seeds = (
            _seeds(model) if training and given.get("shuffle", True) else None
        )
        given["x"] = ArrayBatches(arrays, size, training, seeds)
        given.pop("y")
        given.pop("batch_size", None)
        if rest is not None:
            given["validation_data"] = rest
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)) and all(
        map(_is_array, validation)
    ):
        arrays = _arrays(*validation)
        _check_same(model, arrays)
        own = given.pop("validation_batch_size", None)
        given["validation_data"] = ArrayBatches(arrays, own or size, False)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def _arrays(x: Any, y: Any, weights: Any = None) -> tuple[np.ndarray, ...]:
    given = (x, y) if weights is None else (x, y, weights)
    arrays = tuple(
        value if isinstance(value, np.ndarray) else backend.to_numpy(value)
        for value in given
    )
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(
            "Images, labels and weights must have the same length. Received: "
            f"{lengths} of them."
        )
    return arrays


def _check_same(model: Any, arrays: tuple[np.ndarray, ...]) -> None:
    """Refuses parts of the data where all processes must have the whole."""
    labels = np.ascontiguousarray(arrays[1])
    # JAX sends 32 bits.
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


def _seeds(model: Any) -> Callable[[], int]:
    def new_seed() -> int:
        # From the state that `BackupAndRestore` brings back.
        drawn = np.random.randint(2**31 - 1)
        return int(model.of_all_processes(np.int32(drawn))[0])

    return new_seed

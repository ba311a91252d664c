"""From images in memory to batches of NumPy arrays, for every backend.

These are the batches of `pipeline`, bit for bit, without TensorFlow. Where
several processes train together, each one makes its share of every batch.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_wake.data.array_batches import Batches
from keras_wake.datasets.cutmix import cutmix_draws
from keras_wake.datasets.epochs import epoch_draws
from keras_wake.datasets.epochs import EpochCounter
from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.images import source_pixels
from keras_wake.datasets.images import unit_range


class ImageBatches(Batches):
    """Batches of the images of a data set.

    Args:
        data: The images.
        batch_size: Images per batch of all processes together.
        num_classes: Length of one-hot labels, or None for integer labels.
    """

    def __init__(
        self, data: ImageArrays, batch_size: int, num_classes: int | None
    ):
        super().__init__(batch_size)
        self._data = data
        self._num_classes = num_classes

    def _labels(self, positions: np.ndarray) -> np.ndarray:
        labels = self._data.labels[positions]
        if self._num_classes is None:
            return labels.astype(np.int32)
        return np.eye(self._num_classes, dtype=np.float32)[labels]


class EvaluationBatches(ImageBatches):
    """All images in their order, for validation and test.

    Batches are `(images, labels)`. If the images cannot be divided evenly
    among the devices, they are `(images, labels, sample_weight)`: the last
    batch is filled up with its first image, at a weight of 0.

    Args:
        data: The images.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
    """

    def _total(self) -> int:
        multiple = self._images_per_step()
        return math.ceil(len(self._data) / multiple) * multiple

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        numbers = self._share(index)
        real = numbers < len(self._data)
        positions = np.where(real, numbers, index * self._batch_size)
        images = unit_range(self._data.images[positions], self._data.white)
        batch = images, self._labels(positions)
        if self._total() == len(self._data):
            return batch
        return *batch, real.astype(np.float32)


class TrainingBatches(ImageBatches):
    """Shuffled, augmented images; every complete pass is the next epoch.

    A pass is complete when each batch was asked for once. One that is given
    up does not count: the next has begun when a batch is asked for again.

    If the images cannot be divided evenly among the devices, the last few of
    an epoch are left out, which are others in each epoch.

    Args:
        data: The images.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
        augment: One of `AUGMENTATIONS`.
        seed: Decides, with the epoch, on order and augmentation.
        epochs: Counts the complete passes.
        cutmix: α of CutMix, which needs `num_classes`. Defaults to None,
            for no CutMix.
    """

    def __init__(
        self,
        data: ImageArrays,
        batch_size: int,
        num_classes: int | None,
        augment: str,
        seed: int,
        epochs: EpochCounter,
        cutmix: float | None = None,
    ):
        super().__init__(data, batch_size, num_classes)
        # `BackupAndRestore` finds it under this name.
        self.epoch_counter = epochs
        self._seed = seed
        self._cutmix = cutmix
        self._sources = source_pixels(augment, *data.images.shape[1:3])
        self._pixels = data.images.reshape(-1, data.images.shape[3])
        self._draws: tuple[int, Any, Any] | None = None
        # Of the pass that is under way, and of those what Keras has asked for
        # since it began an epoch.
        self._asked: set[int] = set()
        self._asked_by_keras: set[int] = set()
        self._pass_epoch = epochs.read()
        self._newest = -1
        self._in_keras = False
        self._shuffled_by_keras = False

    def _total(self) -> int:
        multiple = self._images_per_step()
        total = len(self._data) // multiple * multiple
        if total == 0:
            raise ValueError(
                f"The {len(self._data)} training image(s) are fewer than the "
                f"{multiple} devices that share a batch. Use more images or "
                "fewer devices."
            )
        return total

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        epoch = self.epoch_counter.read()
        steps = len(self)
        for index in range(steps):
            batch = self._batch(index, epoch)
            if index == steps - 1:
                self.epoch_counter.finish(epoch)
            yield batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self._notice_order(index)
        if index in self._asked:
            self._asked.clear()
        if not self._asked or self.epoch_counter.pinned:
            self._pass_epoch = self.epoch_counter.read()
        batch = self._batch(index, self._pass_epoch)
        self._asked.add(index)
        self._asked_by_keras.add(index)
        if len(self._asked) == len(self):
            self._asked.clear()
            self.epoch_counter.finish(self._pass_epoch)
        return batch

    def on_epoch_begin(self) -> None:
        """Called by Keras."""
        self._in_keras = True
        self._asked_by_keras.clear()
        # With `steps_per_epoch`, the pass of the last epoch may go on. In
        # order, batch 0 tells a new one; shuffled, nothing does.
        if self._shuffled_by_keras:
            self._asked.clear()

    def on_epoch_end(self) -> None:
        """Called by Keras."""
        self._in_keras = False

    def _notice_order(self, index: int) -> None:
        in_order = index in (0, self._newest + 1)
        self._newest = index
        if in_order or not self._in_keras or self._shuffled_by_keras:
            return
        self._shuffled_by_keras = True
        self._asked = set(self._asked_by_keras)
        warnings.warn(
            "Keras shuffles the order of the batches, which are shuffled "
            "already, so `seed` does not decide on it any more. Pass "
            "`shuffle=False` to `fit`.",
            stacklevel=3,
        )

    def _batch(self, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = self._share(index)
        # Read once: another iterator may be in another epoch.
        draws = self._draws
        if draws is None or draws[0] != epoch:
            draws = self._draw(epoch)
            self._draws = draws
        _, (order, choices), mixing = draws
        positions = order[numbers]
        labels = self._labels(positions)
        if mixing is None and all(len(ways) == 1 for ways in self._sources):
            pixels = self._data.images[positions]
            return unit_range(pixels, self._data.white), labels
        places = self._places(positions, choices[positions])
        if mixing is not None:
            partners, boxes, covered = (draw[positions] for draw in mixing)
            others = self._places(partners, choices[partners])
            places = np.where(self._inside(boxes), others, places)
            part = covered[:, np.newaxis]
            labels = (1 - part) * labels + part * self._labels(partners)
        # One look-up in all pixels: five times as fast as three indices, and
        # images are mixed at half the cost of making both.
        pixels = self._pixels.take(places, axis=0)
        return unit_range(pixels, self._data.white), labels

    def _draw(self, epoch: int) -> tuple[int, Any, Any]:
        """What is random in an epoch: its number, and the draws for it."""
        size, sides = len(self._data), self._data.images.shape[1:3]
        rows, columns = self._sources
        ways = len(rows), len(columns)
        draws = epoch_draws(size, ways, self._seed, epoch)
        if self._cutmix is None:
            return epoch, draws, None
        mixing = cutmix_draws(size, sides, self._cutmix, self._seed, epoch)
        return epoch, draws, mixing

    def _places(self, positions: np.ndarray, choices: np.ndarray) -> np.ndarray:
        """Where in all pixels those of the augmented images `(B, H, W)` are."""
        height, width = self._data.images.shape[1:3]
        rows, columns = (
            source[choices[:, axis]]
            for axis, source in enumerate(self._sources)
        )
        first = positions.astype(np.int64)[:, np.newaxis] * height
        lines = (first + rows)[:, :, np.newaxis] * width
        return lines + columns[:, np.newaxis]

    def _inside(self, boxes: np.ndarray) -> np.ndarray:
        """Which pixels are in the boxes `(B, 4)`, bool `(B, H, W)`."""
        rows, columns = (
            (np.arange(side) >= boxes[:, axis, np.newaxis])
            & (np.arange(side) < boxes[:, axis + 2, np.newaxis])
            for axis, side in enumerate(self._data.images.shape[1:3])
        )
        return rows[:, :, np.newaxis] & columns[:, np.newaxis]

"""From images in memory to batches of NumPy arrays, for every backend.

Each batch is a function of the seed, the number of the epoch and the number
of the batch. Where several processes train together, each one makes its share
of every batch.
"""

import dataclasses
import warnings

import numpy as np

from keras_wake import backend
from keras_wake.data.sharding import ShardedBatches
from keras_wake.datasets.augmentation import augmentation_draws
from keras_wake.datasets.augmentation import cutmix_draws
from keras_wake.datasets.augmentation import order_draws
from keras_wake.datasets.augmentation import source_pixels
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import unit_range
from keras_wake.utils.types import Array

# The largest part of an epoch that is left out unless it was asked for.
_MOST_DROPPED = 0.1


@dataclasses.dataclass
class EpochCounter:
    """The number of the epoch of the next pass over the training images."""

    epoch: int = 0
    pinned: bool = False

    def pin(self, epoch: int) -> None:
        """Fixes the epoch; finished passes do not change it any more."""
        self.epoch, self.pinned = epoch, True

    def finish(self, epoch: int) -> None:
        """Called with the last batch of a pass, which was that of `epoch`."""
        if not self.pinned:
            self.epoch = int(epoch) + 1

    def get_state(self) -> dict[str, int]:
        """For `BackupAndRestore`."""
        return {"epoch": self.epoch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from what `get_state` has returned."""
        self.epoch = state["epoch"]


class ImageBatches(ShardedBatches):
    """All images in their order, for validation and test.

    Batches are `(images, labels)`. If the images cannot be divided evenly
    among the devices, they are `(images, labels, sample_weight)`: the last
    batch is filled up with its first image, at a weight of 0.

    Args:
        data: The images.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
        epochs: Counts the complete passes over training images. Defaults to
            `None`: these are not for training.
    """

    def __init__(
        self,
        data: ImageArrays,
        batch_size: int,
        num_classes: int | None,
        epochs: EpochCounter | None = None,
    ):
        super().__init__(len(data), batch_size, training=epochs is not None)
        # `BackupAndRestore` looks for this name.
        self.epoch_counter = epochs or EpochCounter()
        self._data = data
        self._num_classes = num_classes

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        return self.batch(index, 0)

    def batch(self, index: int, epoch: int) -> tuple[Array, ...]:
        """This process's share of batch `index` of an epoch."""
        positions, weights = self._share(index)
        batch = self._images(positions), self._labels(positions)
        return batch if weights is None else (*batch, weights)

    def _labels(self, positions: Array) -> Array:
        labels = self._data.labels[positions]
        if self._num_classes is None:
            return labels.astype(np.int32)
        return np.eye(self._num_classes, dtype=np.float32)[labels]

    def _images(self, positions: Array) -> Array:
        return unit_range(self._data.images[positions], self._data.white)


class TrainingBatches(ImageBatches):
    """Shuffled, augmented images; every complete pass is the next epoch.

    A pass begins with batch 0, and is complete with the last batch if they
    were taken in their order. If Keras shuffles the order once more, each
    epoch of Keras is a pass.

    If the devices cannot divide the images evenly, the last few of an epoch
    are left out. Those are others in each epoch. `drop_remainder` leaves out
    the whole last batch where it is smaller than the others.

    Args:
        data, batch_size, num_classes, epochs: As for `ImageBatches`.
        augment: One of `AUGMENTATIONS`.
        seed: Decides, with the epoch, on order and augmentation.
        cutmix: α of CutMix, which needs `num_classes`. Defaults to `None`:
            no CutMix.
        drop_remainder: As for `load`. Defaults to `None`.
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
        drop_remainder: bool | None = None,
    ):
        super().__init__(data, batch_size, num_classes, epochs)
        self._drop_remainder = drop_remainder
        self._seed = seed
        self._cutmix = cutmix
        self._rows, self._columns = source_pixels(augment, *data.sides)
        self._pixels = data.images.reshape(-1, data.images.shape[3])
        # The epoch that was drawn last, and its draws.
        self._drawn: tuple[int, tuple[Array, ...]] | None = None
        self._pass_epoch = epochs.epoch
        self._last_index = -1
        # Batches since Keras began an epoch.
        self._taken = 0
        self._in_keras = False
        self._shuffled_by_keras = False

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        in_order = index in (0, self._last_index + 1)
        self._last_index = index
        if self._in_keras and not in_order:
            self._warn_of_shuffling()
        if index == 0 or self.epoch_counter.pinned:
            self._pass_epoch = self.epoch_counter.epoch
        batch = self.batch(index, self._pass_epoch)
        self._taken += 1
        complete = in_order and index == len(self) - 1
        if self._shuffled_by_keras:
            complete = self._taken == len(self)
        if complete:
            self.epoch_counter.finish(self._pass_epoch)
        return batch

    def _total(self) -> int:
        """Number of images in all batches of an epoch, of all processes."""
        total = super()._total()
        whole = total // self.batch_size * self.batch_size
        drop = self._drop_remainder
        if drop is None:
            few = total - whole <= total * _MOST_DROPPED
            drop = few and backend.jit_by_default()
        elif drop and not whole:
            raise ValueError(
                f"The {len(self._data)} training image(s) are fewer than a "
                "batch, so nothing would be left to train on. Received: "
                f"batch_size={self.batch_size}, drop_remainder=True. Use a "
                "smaller `batch_size` or leave `drop_remainder` out."
            )
        return whole if drop else total

    def on_epoch_begin(self) -> None:
        """Called by Keras."""
        self._in_keras, self._taken = True, 0
        if self._shuffled_by_keras:
            self._pass_epoch = self.epoch_counter.epoch

    def on_epoch_end(self) -> None:
        """Called by Keras."""
        self._in_keras = False

    def _warn_of_shuffling(self) -> None:
        """Warns once that Keras takes the batches in an order of its own."""
        if not self._shuffled_by_keras:
            self._shuffled_by_keras = True
            warnings.warn(
                "Keras shuffles the order of the batches, which are shuffled "
                "already, so `seed` does not decide on it any more. Pass "
                "`shuffle=False` to `fit`.",
                stacklevel=3,
            )

    def batch(self, index: int, epoch: int) -> tuple[Array, ...]:
        """This process's share of batch `index` of an epoch."""
        order, choices, *mixing = self._draws(epoch)
        positions = order[self._share(index)[0]]
        labels = self._labels(positions)
        if not mixing and len(self._rows) == len(self._columns) == 1:
            # Neither augmented nor mixed.
            return self._images(positions), labels
        places = self._places(positions, choices)
        if mixing:
            partners, boxes, covered = (draw[positions] for draw in mixing)
            places = np.where(
                self._inside(boxes), self._places(partners, choices), places
            )
            part = covered[:, np.newaxis]
            labels = (1 - part) * labels + part * self._labels(partners)
        # One look-up in the pixels of all images is five times as fast as one
        # with an index for each axis, and mixes images before they are made.
        pixels = self._pixels.take(places, axis=0)
        return unit_range(pixels, self._data.white), labels

    def _draws(self, epoch: int) -> tuple[Array, ...]:
        """What is random in an epoch, kept until another one is asked for."""
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            size = len(self._data)
            ways = len(self._rows), len(self._columns)
            draws: tuple[Array, ...] = (
                order_draws(size, self._seed, epoch),
                augmentation_draws(size, ways, self._seed, epoch),
            )
            if self._cutmix is not None:
                draws += cutmix_draws(
                    size, self._data.sides, self._cutmix, self._seed, epoch
                )
            # Assigned at once: another thread may be in another epoch.
            self._drawn = drawn = epoch, draws
        return drawn[1]

    def _places(self, positions: Array, choices: Array) -> Array:
        """Where in `_pixels` those of augmented images `(B, H, W)` are."""
        height, width = self._data.sides
        chosen = choices[positions]
        first = positions.astype(np.int64)[:, np.newaxis] * height
        lines = (first + self._rows[chosen[:, 0]])[:, :, np.newaxis] * width
        return lines + self._columns[chosen[:, 1]][:, np.newaxis]

    def _inside(self, boxes: Array) -> Array:
        """Which pixels are in the boxes `(B, 4)`, bool `(B, H, W)`."""
        rows, columns = (
            (np.arange(side) >= boxes[:, axis, np.newaxis])
            & (np.arange(side) < boxes[:, axis + 2, np.newaxis])
            for axis, side in enumerate(self._data.sides)
        )
        return rows[:, :, np.newaxis] & columns[:, np.newaxis]

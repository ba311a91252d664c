"""From images in memory to batches of NumPy arrays, for every backend.

Each batch is a function of the seed, the number of the epoch and the number
of the batch. Where several processes train together, each one makes its share
of every batch.
"""

import warnings
from collections.abc import Iterator

import numpy as np

from keras_wake.data.sharding import ShardedBatches
from keras_wake.datasets.augmentation import augmentation_draws
from keras_wake.datasets.augmentation import order_draws
from keras_wake.datasets.augmentation import source_pixels
from keras_wake.datasets.cutmix import cutmix_draws
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import unit_range
from keras_wake.utils.types import Array


class EpochCounter:
    """The number of the epoch of the next pass over the training images.

    Args:
        epoch: Number of the first epoch.
    """

    def __init__(self, epoch: int):
        self._epoch = epoch
        self.pinned = False

    def read(self) -> int:
        """The number of the epoch."""
        return self._epoch

    def pin(self, epoch: int) -> None:
        """Fixes the epoch; finished passes do not change it any more."""
        self._epoch = epoch
        self.pinned = True

    def finish(self, epoch: int) -> None:
        """Called with the last batch of a pass, which was that of `epoch`."""
        if not self.pinned:
            self._epoch = int(epoch) + 1

    def get_state(self) -> dict[str, int]:
        """For `BackupAndRestore`."""
        return {"epoch": self._epoch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from what `get_state` has returned."""
        self._epoch = state["epoch"]


class ImageBatches(ShardedBatches):
    """Base of the batches of images and labels.

    Args:
        data: The images.
        batch_size: Images per batch of all processes together; the last
            batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
        training: As for `ShardedBatches`.
    """

    def __init__(
        self,
        data: ImageArrays,
        batch_size: int,
        num_classes: int | None,
        training: bool = False,
    ):
        super().__init__(len(data), batch_size, training)
        self._data = data
        self._num_classes = num_classes

    def element_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], str]:
        """Shape of an image, shape of a label, and dtype of the labels."""
        image = self._data.images.shape[1:]
        if self._num_classes is None:
            return image, (), "int32"
        return image, (self._num_classes,), "float32"

    def _labels(self, positions: Array) -> Array:
        labels = self._data.labels[positions]
        if self._num_classes is None:
            return labels.astype(np.int32)
        return np.eye(self._num_classes, dtype=np.float32)[labels]

    def _images(self, positions: Array) -> Array:
        return unit_range(self._data.images[positions], self._data.white)


class EvaluationBatches(ImageBatches):
    """All images in their order, for validation and test.

    Batches are `(images, labels)`. If the images cannot be divided evenly
    among the devices, they are `(images, labels, sample_weight)`: the last
    batch is filled up with its first image, at a weight of 0.
    """

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        positions, weights = self._share(index)
        batch = self._images(positions), self._labels(positions)
        return batch if weights is None else (*batch, weights)


class TrainingBatches(ImageBatches):
    """Shuffled, augmented images; every complete pass is the next epoch.

    A pass is complete when each batch was asked for once. A batch that is
    asked for again begins a new pass, and the one before does not count.

    If the devices cannot divide the images evenly, the last few of an epoch
    are left out. Those are others in each epoch.

    Args:
        data, batch_size, num_classes: As for `ImageBatches`.
        augment: One of `AUGMENTATIONS`.
        seed: Decides, with the epoch, on order and augmentation.
        epochs: Counts the complete passes.
        cutmix: α of CutMix, which needs `num_classes`. Defaults to `None`:
            no CutMix.
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
        super().__init__(data, batch_size, num_classes, training=True)
        # `BackupAndRestore` looks for this name.
        self.epoch_counter = epochs
        self._seed = seed
        self._cutmix = cutmix
        self._rows, self._columns = source_pixels(augment, *data.sides)
        self._pixels = data.images.reshape(-1, data.images.shape[3])
        # The epoch that was drawn last, and its draws.
        self._drawn: tuple[int, tuple[Array, ...]] | None = None
        # The batches of this pass that were asked for, and those of them that
        # were asked for since Keras began an epoch.
        self._asked: set[int] = set()
        self._asked_by_keras: set[int] = set()
        self._pass_epoch = epochs.read()
        self._last_index = -1
        self._in_keras = False
        self._shuffled_by_keras = False

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        epoch = self.epoch_counter.read()
        steps = len(self)
        for index in range(steps):
            batch = self.batch(index, epoch)
            if index == steps - 1:
                self.epoch_counter.finish(epoch)
            yield batch

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        self._notice_order(index)
        if index in self._asked:
            self._asked.clear()
        if not self._asked or self.epoch_counter.pinned:
            self._pass_epoch = self.epoch_counter.read()
        batch = self.batch(index, self._pass_epoch)
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
        # With `steps_per_epoch`, a pass may go on in the next epoch. In order,
        # batch 0 begins a new one; shuffled, nothing shows where one begins.
        if self._shuffled_by_keras:
            self._asked.clear()

    def on_epoch_end(self) -> None:
        """Called by Keras."""
        self._in_keras = False

    def _notice_order(self, index: int) -> None:
        """Warns once if Keras asks for the batches in an order of its own."""
        in_order = index in (0, self._last_index + 1)
        self._last_index = index
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

    def begin_epoch(self) -> np.int64:
        """Draws what is random in the next epoch, and returns its number."""
        epoch = self.epoch_counter.read()
        self._draws(epoch)
        return np.int64(epoch)

    def batch(self, index: int, epoch: int) -> tuple[Array, Array]:
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

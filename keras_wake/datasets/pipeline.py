"""From images in memory to `tf.data` batches, for the TensorFlow backend."""

import math
from typing import Any

import numpy as np

from keras_wake.datasets.cutmix import cutmix_draws
from keras_wake.datasets.epochs import epoch_draws
from keras_wake.datasets.epochs import EpochCounter
from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.images import source_pixels
from keras_wake.datasets.images import unit_range

# How many batches are made at a time, and how many are ready ahead: each is a
# lookup of a few milliseconds.
_AT_A_TIME = 8
_AHEAD = 4


class _Host:
    """The images and what is looked up in them, as tensors on the host.

    Pipelines run there, and so many images would crowd out the network on an
    accelerator.
    """

    def __init__(
        self, data: ImageArrays, batch_size: int, num_classes: int | None
    ):
        import tensorflow as tf

        self._size = len(data)
        self._batch_size = batch_size
        self._num_classes = num_classes
        with tf.device("CPU:0"):
            self.images = tf.constant(data.images)
            # The same memory, one row for each pixel.
            self.pixels = tf.reshape(self.images, (-1, data.images.shape[3]))
            self._labels = tf.constant(data.labels, tf.int32)
            # A table, because a compiler may replace a division by a
            # multiplication with the reciprocal, which rounds differently.
            self._table = tf.constant(
                unit_range(
                    np.arange(data.white + 1, dtype=np.int32), data.white
                )
            )

    def numbers(self, step: Any) -> Any:
        """The numbers of the images in batch `step`, in the order of a pass."""
        import tensorflow as tf

        start = step * self._batch_size
        return tf.range(start, tf.minimum(start + self._batch_size, self._size))

    def labels(self, positions: Any) -> Any:
        """The labels of the images at `positions`."""
        import tensorflow as tf

        y = tf.gather(self._labels, positions)
        return (
            y if self._num_classes is None else tf.one_hot(y, self._num_classes)
        )

    def unit_range(self, pixels: Any) -> Any:
        """Pixel values as float32 in [0, 1]."""
        import tensorflow as tf

        return tf.gather(self._table, tf.cast(pixels, tf.int32))


def _finished(dataset: Any, steps: int) -> Any:
    """The data set with a known length, ready for any strategy."""
    import tensorflow as tf

    options = tf.data.Options()
    # The thread that tunes a pipeline sleeps ever longer, and the end of an
    # epoch has to wait for it, often for as long as the epoch has taken.
    options.autotune.enabled = False
    # Several workers share the batches; there are no files to share.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


def _drawn(
    data: ImageArrays,
    ways: tuple[int, int],
    seed: int,
    epochs: EpochCounter,
    cutmix: float | None,
) -> list[Any]:
    """What is random in an epoch, as tensors made when the epoch begins.

    Returns:
        The number of the epoch, what `epoch_draws` returns and, with CutMix,
        what `cutmix_draws` returns.
    """
    import tensorflow as tf

    size, sides = len(data), data.images.shape[1:3]
    types = [tf.int64, tf.int32, tf.int32]
    shapes = [(), (size,), (size, 2)]
    if cutmix is not None:
        types += [tf.int32, tf.int32, tf.float32]
        shapes += [(size,), (size, 4), (size,)]

    def draw() -> tuple[Any, ...]:
        epoch = epochs.read()
        draws = np.int64(epoch), *epoch_draws(size, ways, seed, epoch)
        if cutmix is None:
            return draws
        return *draws, *cutmix_draws(size, sides, cutmix, seed, epoch)

    drawn = tf.numpy_function(draw, [], types)
    for tensor, shape in zip(drawn, shapes, strict=True):
        tensor.set_shape(shape)
    return drawn


def _places(positions: Any, choices: Any, rows: Any, columns: Any) -> Any:
    """Where in all pixels those of the augmented images `(B, H, W)` are."""
    import tensorflow as tf

    height, width = rows.shape[1], columns.shape[1]
    chosen = tf.gather(choices, positions)
    down, across = (
        tf.cast(tf.gather(ways, chosen[:, axis]), tf.int64)
        for axis, ways in enumerate((rows, columns))
    )
    first = tf.cast(positions, tf.int64)[:, tf.newaxis] * height
    lines = (first + down)[:, :, tf.newaxis] * width
    return lines + across[:, tf.newaxis]


def _inside(boxes: Any, sides: tuple[int, ...]) -> Any:
    """Which pixels are in the boxes `(B, 4)`, bool `(B, H, W)`."""
    import tensorflow as tf

    rows, columns = (
        (tf.range(side) >= boxes[:, axis, tf.newaxis])
        & (tf.range(side) < boxes[:, axis + 2, tf.newaxis])
        for axis, side in enumerate(sides)
    )
    return rows[:, :, tf.newaxis] & columns[:, tf.newaxis]


def evaluation_dataset(
    data: ImageArrays, batch_size: int, num_classes: int | None
) -> Any:
    """All images in their order, for validation and test.

    Args:
        data: The images.
        batch_size: Images per batch; the last batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.
    """
    import tensorflow as tf

    host = _Host(data, batch_size, num_classes)

    def batch(step: Any) -> tuple[Any, Any]:
        positions = host.numbers(step)
        x = tf.gather(host.images, positions)
        return host.unit_range(x), host.labels(positions)

    steps = math.ceil(len(data) / batch_size)
    dataset = tf.data.Dataset.range(steps).map(
        batch, num_parallel_calls=_AT_A_TIME
    )
    return _finished(dataset.prefetch(_AHEAD), steps)


def training_dataset(
    data: ImageArrays,
    batch_size: int,
    num_classes: int | None,
    augment: str,
    seed: int,
    epochs: EpochCounter,
    cutmix: float | None = None,
) -> Any:
    """Shuffled, augmented images; every complete pass is the next epoch.

    Args:
        data: The images.
        batch_size: Images per batch; the last batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
        augment: One of `AUGMENTATIONS`.
        seed: Decides, with the epoch, on order and augmentation.
        epochs: Counts the complete passes.
        cutmix: α of CutMix, which needs `num_classes`. Defaults to None,
            for no CutMix.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.
    """
    import tensorflow as tf

    steps = math.ceil(len(data) / batch_size)
    host = _Host(data, batch_size, num_classes)
    sides = data.images.shape[1:3]
    rows, columns = source_pixels(augment, *sides)
    ways = len(rows), len(columns)

    def one_epoch(_: Any) -> Any:
        epoch, order, choices, *mixing = _drawn(
            data, ways, seed, epochs, cutmix
        )

        def batch(step: Any) -> tuple[Any, ...]:
            positions = tf.gather(order, host.numbers(step))
            y = host.labels(positions)
            if ways == (1, 1) and not mixing:
                x = tf.gather(host.images, positions)
                return step, epoch, host.unit_range(x), y
            places = _places(positions, choices, rows, columns)
            if mixing:
                partners, boxes, covered = (
                    tf.gather(draw, positions) for draw in mixing
                )
                others = _places(partners, choices, rows, columns)
                places = tf.where(_inside(boxes, sides), others, places)
                part = covered[:, tf.newaxis]
                y = (1 - part) * y + part * host.labels(partners)
            x = tf.gather(host.pixels, places)
            return step, epoch, host.unit_range(x), y

        return tf.data.Dataset.range(steps).map(
            batch, num_parallel_calls=_AT_A_TIME
        )

    def count(step: Any, epoch: Any, x: Any, y: Any) -> tuple[Any, Any]:
        tf.cond(
            tf.equal(step, steps - 1),
            lambda: tf.group(tf.numpy_function(epochs.finish, [epoch], [])),
            lambda: tf.no_op(),
        )
        return x, y

    dataset = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
    dataset = dataset.prefetch(_AHEAD)
    # Counted after the prefetching, at the end of a pass: Keras opens more
    # iterators than it has epochs and takes a first batch to build a model.
    dataset = _finished(dataset.map(count), steps)
    # `BackupAndRestore` finds it here.
    dataset.epoch_counter = epochs
    return dataset

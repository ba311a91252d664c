"""From images in memory to `tf.data` batches, reproducible from a seed.

Order and augmentation of an epoch are drawn at its start from the seed and
the number of the epoch with stateless generators, one row of draws per image.
So a batch depends on nothing that happened before it, and a resumed run sees
what an uninterrupted one would have seen.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

AUGMENTATIONS = ("crop_flip", "flip", "none")
CROP_PADDING = 4


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images as uint8 `(N, H, W, C)`, their labels and their white value."""

    images: np.ndarray
    labels: np.ndarray
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "ImageArrays":
        """The images at `positions`, in that order."""
        return dataclasses.replace(
            self, images=self.images[positions], labels=self.labels[positions]
        )

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1]."""
        return _unit_range_table(self.white)[self.images]


def _unit_range_table(white: int) -> np.ndarray:
    # A table, because a compiler may replace a division by a multiplication
    # with the reciprocal, which rounds differently.
    return np.arange(white + 1, dtype=np.float32) / np.float32(white)


class EpochCounter:
    """The number of the epoch, where a pipeline can read and advance it.

    It lives in a lookup table rather than in a variable: a variable made
    under a distribution strategy is mirrored over its devices, and a data
    pipeline runs on the host.

    Args:
        epoch: Number of the first epoch.
    """

    def __init__(self, epoch: int):
        import tensorflow as tf

        with tf.device("CPU:0"):
            self._table = tf.lookup.experimental.MutableHashTable(
                tf.string, tf.int64, default_value=0
            )
            self._set("epoch", epoch)
            self._set("pinned", 0)

    def _set(self, key: str, value: Any) -> None:
        import tensorflow as tf

        self._table.insert(tf.constant(key), tf.cast(value, tf.int64))

    def read(self) -> Any:
        """The number of the epoch, a scalar int64 tensor."""
        import tensorflow as tf

        return self._table.lookup(tf.constant("epoch"))

    def pin(self, epoch: int) -> None:
        """Fixes the epoch; finished passes do not change it any more."""
        self._set("epoch", epoch)
        self._set("pinned", 1)

    def finish(self, epoch: Any) -> Any:
        """Called in the pipeline after the last batch of `epoch`."""
        import tensorflow as tf

        pinned = self._table.lookup(tf.constant("pinned"))
        following = tf.where(pinned > 0, self.read(), epoch + 1)
        return self._table.insert(tf.constant("epoch"), following)


def _crop(pixels: Any, draws: Any, side: int) -> Any:
    """Pixel numbers `(B, side)` of a crop from the reflected image."""
    import tensorflow as tf

    offsets = draws % (2 * CROP_PADDING + 1) - CROP_PADDING
    shifted = tf.abs(pixels[tf.newaxis] + offsets[:, tf.newaxis])
    return (side - 1) - tf.abs((side - 1) - shifted)


def _augmented(images: Any, draws: Any, augment: str) -> Any:
    """Crops and flips `(B, H, W, C)` images by `(B, 3)` random integers."""
    import tensorflow as tf

    height, width = images.shape[1:3]
    rows, columns = tf.range(height), tf.range(width)
    batch_columns = tf.zeros_like(draws[:, :1]) + columns
    if augment == "crop_flip":
        images = tf.gather(
            images, _crop(rows, draws[:, 0], height), axis=1, batch_dims=1
        )
        batch_columns = _crop(columns, draws[:, 1], width)
    flipped = draws[:, 2:] % 2 == 1
    batch_columns = tf.where(flipped, batch_columns[:, ::-1], batch_columns)
    return tf.gather(images, batch_columns, axis=2, batch_dims=1)


def _batch_maker(
    data: ImageArrays, batch_size: int, num_classes: int | None
) -> Callable[..., tuple[Any, Any]]:
    """A function from a step (and the epoch's draws) to images and labels."""
    import tensorflow as tf

    # Kept on the host: pipelines run there, and so many images would
    # crowd out the network on an accelerator.
    with tf.device("CPU:0"):
        images = tf.constant(data.images)
        labels = tf.constant(data.labels, tf.int32)
        table = tf.constant(_unit_range_table(data.white))

    def make_batch(
        step: Any, order: Any, draws: Any, augment: str
    ) -> tuple[Any, Any]:
        start = step * batch_size
        stop = tf.minimum(start + batch_size, len(data))
        positions = tf.range(start, stop)
        if order is not None:
            positions = tf.gather(order, positions)
        x = tf.gather(images, positions)
        y = tf.gather(labels, positions)
        if augment != "none":
            x = _augmented(x, tf.gather(draws, positions), augment)
        x = tf.gather(table, tf.cast(x, tf.int32))
        if num_classes is not None:
            y = tf.one_hot(y, num_classes)
        return x, y

    return make_batch


def _finished(dataset: Any, steps: int) -> Any:
    """The data set with a known length, ready for any strategy."""
    import tensorflow as tf

    options = tf.data.Options()
    # Several workers share the batches; there are no files to share.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


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

    steps = math.ceil(len(data) / batch_size)
    make_batch = _batch_maker(data, batch_size, num_classes)
    dataset = tf.data.Dataset.range(steps).map(
        lambda step: make_batch(step, None, None, "none"),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return _finished(dataset.prefetch(tf.data.AUTOTUNE), steps)


def training_dataset(
    data: ImageArrays,
    batch_size: int,
    num_classes: int | None,
    augment: str,
    seed: int,
    epochs: EpochCounter,
) -> Any:
    """Shuffled, augmented images; every complete pass is the next epoch.

    Args:
        data: The images.
        batch_size: Images per batch; the last batch may be smaller.
        num_classes: Length of one-hot labels, or None for integer labels.
        augment: One of `AUGMENTATIONS`.
        seed: Decides, with the epoch, on order and augmentation.
        epochs: Counts the complete passes.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.
    """
    import tensorflow as tf

    steps = math.ceil(len(data) / batch_size)
    make_batch = _batch_maker(data, batch_size, num_classes)

    def one_epoch(_: Any) -> Any:
        epoch = epochs.read()
        order_seed = tf.stack([tf.constant(seed, tf.int64), 2 * epoch])
        draws_seed = tf.stack([tf.constant(seed, tf.int64), 2 * epoch + 1])
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(data)), seed=order_seed
        )
        draws = tf.random.stateless_uniform(
            (len(data), 3), draws_seed, 0, 2**31 - 1, tf.int32
        )
        return tf.data.Dataset.range(steps).map(
            lambda step: (
                step,
                epoch,
                *make_batch(step, order, draws, augment),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def count(step: Any, epoch: Any, x: Any, y: Any) -> tuple[Any, Any]:
        tf.cond(
            tf.equal(step, steps - 1),
            lambda: epochs.finish(epoch),
            lambda: tf.no_op(),
        )
        return x, y

    dataset = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    # Counted after the prefetching, at the end of a pass: Keras opens more
    # iterators than it has epochs and takes a first batch to build a model.
    return _finished(dataset.map(count), steps)

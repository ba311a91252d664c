"""From images in memory to `tf.data` batches, for the TensorFlow backend."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_wake.datasets.epochs import epoch_draws
from keras_wake.datasets.epochs import EpochCounter
from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.images import source_pixels
from keras_wake.datasets.images import unit_range


def _batch_maker(
    data: ImageArrays, batch_size: int, num_classes: int | None
) -> Callable[..., tuple[Any, Any]]:
    """A function from a step (and the epoch's order) to images and labels."""
    import tensorflow as tf

    # Kept on the host: pipelines run there, and so many images would
    # crowd out the network on an accelerator.
    with tf.device("CPU:0"):
        images = tf.constant(data.images)
        labels = tf.constant(data.labels, tf.int32)
        # A table, because a compiler may replace a division by a
        # multiplication with the reciprocal, which rounds differently.
        table = tf.constant(
            unit_range(np.arange(data.white + 1, dtype=np.int32), data.white)
        )

    def make_batch(
        step: Any, order: Any = None, augmented: Callable | None = None
    ) -> tuple[Any, Any]:
        start = step * batch_size
        stop = tf.minimum(start + batch_size, len(data))
        positions = tf.range(start, stop)
        if order is not None:
            positions = tf.gather(order, positions)
        x = tf.gather(images, positions)
        y = tf.gather(labels, positions)
        if augmented is not None:
            x = augmented(x, positions)
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
    dataset = tf.data.Dataset.range(steps).map(
        _batch_maker(data, batch_size, num_classes),
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
    rows, columns = source_pixels(augment, *data.images.shape[1:3])

    def start() -> tuple[Any, ...]:
        epoch = epochs.read()
        draws = epoch_draws(len(data), (len(rows), len(columns)), seed, epoch)
        return np.int64(epoch), *draws

    def one_epoch(_: Any) -> Any:
        epoch, order, choices = tf.numpy_function(
            start, [], [tf.int64, tf.int32, tf.int32]
        )
        epoch.set_shape([])
        order.set_shape([len(data)])
        choices.set_shape([len(data), 2])

        def augmented(x: Any, positions: Any) -> Any:
            chosen = tf.gather(choices, positions)
            for axis, table in ((1, rows), (2, columns)):
                if len(table) > 1:
                    pixels = tf.gather(table, chosen[:, axis - 1])
                    x = tf.gather(x, pixels, axis=axis, batch_dims=1)
            return x

        return tf.data.Dataset.range(steps).map(
            lambda step: (step, epoch, *make_batch(step, order, augmented)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def count(step: Any, epoch: Any, x: Any, y: Any) -> tuple[Any, Any]:
        tf.cond(
            tf.equal(step, steps - 1),
            lambda: tf.group(tf.numpy_function(epochs.finish, [epoch], [])),
            lambda: tf.no_op(),
        )
        return x, y

    dataset = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    # Counted after the prefetching, at the end of a pass: Keras opens more
    # iterators than it has epochs and takes a first batch to build a model.
    dataset = _finished(dataset.map(count), steps)
    # `BackupAndRestore` finds it here.
    dataset.epoch_counter = epochs
    return dataset

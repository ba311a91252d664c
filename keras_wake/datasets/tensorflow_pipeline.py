"""The batches of `numpy_pipeline` as a `tf.data.Dataset`, for TensorFlow.

`tf.data` makes batches ahead of the training step, and `tf.distribute` divides
them among replicas and workers.
"""

from typing import TYPE_CHECKING

import numpy as np

from keras_wake.datasets.numpy_pipeline import ImageBatches
from keras_wake.utils.types import Tensor

if TYPE_CHECKING:
    import tensorflow as tf

# How many batches are made at a time, and how many are ready ahead.
_AT_A_TIME = 2
_AHEAD = 4


def as_dataset(batches: ImageBatches) -> "tf.data.Dataset":
    """The batches; each pass is one epoch, counted where it is complete."""
    import tensorflow as tf

    steps = len(batches)
    epochs = batches.epoch_counter
    images, labels = batches.batch(0, epochs.epoch)

    def make(step: Tensor, epoch: Tensor) -> tuple[Tensor, Tensor]:
        x, y = tf.numpy_function(
            batches.batch, [step, epoch], [images.dtype, labels.dtype]
        )
        x.set_shape((None, *images.shape[1:]))
        y.set_shape((None, *labels.shape[1:]))
        return x, y

    def one_epoch(_: Tensor) -> "tf.data.Dataset":
        epoch = tf.numpy_function(lambda: np.int64(epochs.epoch), [], tf.int64)
        return tf.data.Dataset.range(steps).map(
            lambda step: (step, epoch, *make(step, epoch)), _AT_A_TIME
        )

    def count(
        step: Tensor, epoch: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        tf.cond(
            tf.equal(step, steps - 1),
            lambda: tf.group(tf.numpy_function(epochs.finish, [epoch], [])),
            tf.no_op,
        )
        return x, y

    if batches.training:
        dataset = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
        # Counted after the prefetching, at the end of a pass: Keras opens more
        # iterators than it has epochs and takes a first batch to build a model.
        dataset = dataset.prefetch(_AHEAD).map(count)
    else:
        dataset = tf.data.Dataset.range(steps)
        dataset = dataset.map(lambda step: make(step, 0), _AT_A_TIME)
        dataset = dataset.prefetch(_AHEAD)
    options = tf.data.Options()
    # The thread that tunes a pipeline sleeps ever longer, and the end of an
    # epoch has to wait for it, often for as long as the epoch has taken.
    options.autotune.enabled = False
    # Several workers share the batches; there are no files to share.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    # `BackupAndRestore` looks for this name.
    dataset.epoch_counter = epochs
    return dataset

"""The batches of `numpy_pipeline` as `tf.data.Dataset`s, for TensorFlow.

`tf.data` makes batches ahead of the training step, and `tf.distribute` divides
them among replicas and workers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from keras_wake.datasets.numpy_pipeline import EvaluationBatches
from keras_wake.datasets.numpy_pipeline import TrainingBatches
from keras_wake.utils.types import Tensor

if TYPE_CHECKING:
    import tensorflow as tf

# How many batches are made at a time, and how many are ready ahead.
_AT_A_TIME = 2
_AHEAD = 4


def evaluation_dataset(batches: EvaluationBatches) -> "tf.data.Dataset":
    """The batches, in their order."""
    import tensorflow as tf

    make = _in_tensorflow(batches.__getitem__, batches)
    steps = tf.data.Dataset.range(len(batches))
    dataset = steps.map(make, num_parallel_calls=_AT_A_TIME)
    return _finished(dataset.prefetch(_AHEAD), len(batches))


def training_dataset(batches: TrainingBatches) -> "tf.data.Dataset":
    """The batches; each pass is one epoch, counted where it is complete."""
    import tensorflow as tf

    make = _in_tensorflow(batches.batch, batches)
    steps = len(batches)
    epochs = batches.epoch_counter

    def one_epoch(_: Tensor) -> "tf.data.Dataset":
        # Drawn here, once, rather than by several batches at the same time.
        epoch = tf.numpy_function(batches.begin_epoch, [], tf.int64)
        return tf.data.Dataset.range(steps).map(
            lambda step: (step, epoch, *make(step, epoch)),
            num_parallel_calls=_AT_A_TIME,
        )

    def count(
        step: Tensor, epoch: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
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
    # `BackupAndRestore` looks for this name.
    dataset.epoch_counter = epochs
    return dataset


def _in_tensorflow(
    function: Callable, batches: EvaluationBatches | TrainingBatches
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A NumPy function that makes a batch, as a function of TensorFlow."""
    import tensorflow as tf

    image, label, label_type = batches.element_shapes()

    def make(*args: Tensor) -> tuple[Tensor, Tensor]:
        x, y = tf.numpy_function(function, args, [tf.float32, label_type])
        x.set_shape((None, *image))
        y.set_shape((None, *label))
        return x, y

    return make


def _finished(dataset: "tf.data.Dataset", steps: int) -> "tf.data.Dataset":
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

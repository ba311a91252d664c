"""TensorFlow: input gradients, the compiled step, and what replicas share.

Under `tf.distribute` the functions here run once per replica, on that
replica's share of the batch.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def input_gradient(function: Callable, inputs: Any) -> Any:
    """Gradient of the scalar `function(inputs)` with respect to `inputs`.

    No variable is watched, so the gradient costs nothing for the weights.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        value = function(inputs)
    return tape.gradient(value, inputs)


def side_by_side(function: Callable, *tensors: Any) -> Any:
    """`function(*tensors)`, which treats the samples of a batch apart.

    On a CPU the two halves of the batch are computed next to each other.
    There an operation of a few milliseconds gains little from a second core,
    because the threads wait for one another after each; two independent
    chains of operations do not. It pays off most where one operation gets
    half of the cores (`benchmarks/train_step.py`).
    """
    if use_xla():
        return function(*tensors)
    size = tf.shape(tensors[0])[0]
    middle = (size + 1) // 2
    # A single image goes both ways: convolutions fail on no image.
    start = tf.maximum(tf.minimum(middle, size - 1), 0)
    first = function(*(tensor[:middle] for tensor in tensors))
    second = function(*(tensor[start:] for tensor in tensors))
    return tf.concat([first, second], axis=0)[:size]


def global_sum(value: Any) -> Any:
    """Sum of `value` over all replicas; `value` itself where there is one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def replica_index() -> Any:
    """Number of the replica that runs this code, an int32 scalar."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.constant(0, tf.int32)
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def to_numpy(value: Any) -> Any:
    """A variable or tensor as a NumPy array, outside a compiled step.

    Under replicas it is the value that they have in common; of a metric's
    variable, the sum of theirs.
    """
    return tf.convert_to_tensor(value).numpy()


def use_xla() -> bool:
    """Whether XLA pays off here.

    On a CPU it does not: a PGD-10 step of PreActResNet-18 (width 16, batch
    64) took 1.1 s as a graph and 7.2 s under XLA, which does not
    parallelise convolutions inside a loop.
    """
    devices = tf.config.list_logical_devices()
    return any(device.device_type in ("GPU", "TPU") for device in devices)


def compile(function: Callable) -> Callable:
    """Compiles `function` of tensors; whatever it closes over stays live."""
    return tf.function(
        function, reduce_retracing=True, jit_compile=use_xla(), autograph=False
    )


class Trainer(keras.Model):
    """The steps that `fit` and `evaluate` compile, for `WakeModel`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attack, update the student, average the teacher, report."""
        batch = self.adversarial_batch(data)
        updates_before = self.optimizer_updates()
        super().train_step(batch)
        self.average_teacher(self.optimizer_updates() - updates_before)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        self.evaluate_batch(data)
        return self.get_metrics_result()

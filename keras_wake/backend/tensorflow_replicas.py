"""What the replicas and the workers of `tf.distribute` share."""

from typing import Any

import keras
import tensorflow as tf

from keras_wake.backend._common import gathered_as_bytes
from keras_wake.utils.types import Tensor


def global_sum(value: Tensor) -> Tensor:
    """Sum of `value` over all replicas; `value` itself where there is one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    # Several workers cannot sum the value of a metric as it is read: `+ 0`
    # makes a tensor of it on the device of the replica.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value + 0)


def metric_sum(variable: keras.Variable) -> Tensor:
    """The variable of a metric, of which each replica has its own."""
    return global_sum(keras.ops.convert_to_tensor(variable))


def batch_positions(size: int | Tensor) -> Tensor:
    """Positions of this replica's `size` images in the global batch, (size,).

    Replicas have consecutive shares of it.
    """
    positions = tf.range(size)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return positions
    replica = replica_index()
    own = tf.one_hot(replica, context.num_replicas_in_sync, dtype=tf.int32)
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, own * size)
    return positions + tf.reduce_sum(sizes[:replica])


def replica_index() -> Tensor:
    """Number of the replica that runs this code, an int32 scalar."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.constant(0, tf.int32)
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def replicas_of(variable: keras.Variable) -> list[keras.Variable]:
    """The variable of each replica of this process.

    They differ where replicas do not share what they have found, as in batch
    normalisation.
    """
    return list(getattr(variable.value, "values", [variable]))


def device_count(model: keras.Model) -> int:
    """Among how many devices `compile_split` divides a batch.

    The replicas of the strategy that the model was made under. Several
    workers each compute all of it, as the devices of the others are not
    theirs to use.
    """
    strategy = model.distribute_strategy
    return 1 if is_multi_worker(strategy) else strategy.num_replicas_in_sync


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas are in several processes."""
    return isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ) and bool(strategy.cluster_resolver.cluster_spec().as_dict())


def processes(model: keras.Model) -> tuple[int, int]:
    """The number of this process, and how many work together."""
    strategy = model.distribute_strategy
    if not is_multi_worker(strategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    chiefs, workers = (len(cluster.get(k, ())) for k in ("chief", "worker"))
    is_worker = resolver.task_type == "worker"
    return resolver.task_id + chiefs * is_worker, chiefs + workers


def gather_objects(model: keras.Model, value: object) -> list[Any]:
    """The `value` of each process, which all have to call this."""
    _, count = processes(model)
    if count == 1:
        return [value]
    strategy = model.distribute_strategy

    def all_gather(array: Any) -> list[Any]:
        own = strategy.run(lambda: tf.constant(array)[tf.newaxis])
        found = strategy.gather(own, axis=0).numpy()
        # One for each replica.
        return list(found[:: len(found) // count])

    return gathered_as_bytes(all_gather, value)

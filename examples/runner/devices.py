"""On what a run runs; the only part of the examples about TensorFlow."""

import contextlib
import os
import platform
from collections.abc import Iterator

import tensorflow as tf


def set_threads(threads: int) -> None:
    """Shares out so many CPU threads; 0 means all cores.

    On a CPU an attack computes the two halves of a batch next to each other,
    so an operation gets half of the threads. With GPUs and without a wish the
    choice is TensorFlow's.
    """
    if not threads:
        if tf.config.list_physical_devices("GPU"):
            return
        threads = os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # TensorFlow runs already.
        tf.config.threading.set_intra_op_parallelism_threads((threads + 1) // 2)
        tf.config.threading.set_inter_op_parallelism_threads(min(2, threads))


def describe() -> str:
    """GPUs and CPU in words."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    cpu = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return ", ".join([*names, cpu])


def replica_devices() -> list[str]:
    """The devices to train on, each with a replica of the model."""
    return [gpu.name for gpu in tf.config.list_logical_devices("GPU")]


@contextlib.contextmanager
def scope() -> Iterator[int]:
    """Where to make and compile a model; gives the number of replicas.

    With several GPUs it is the scope of a `MirroredStrategy`, otherwise that
    of no strategy.
    """
    devices = replica_devices()
    if len(devices) < 2:
        yield 1
        return
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        yield strategy.num_replicas_in_sync

"""Threads and devices of a run, and the processes that share it.

The only part of the examples that depends on the framework.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import keras

from runner import processes


def start(threads: int) -> Any:
    """Joins the other processes and shares out the devices.

    Call it before anything is computed, because TensorFlow accepts a strategy
    of several workers only then. 0 threads of a CPU mean all cores. Returns
    what `scope` takes.
    """
    backend = keras.backend.backend()
    given = processes.not_joined(backend)
    if given:
        # Each process would train alone, and write the same files.
        raise ValueError(
            f"This is one of several processes ({', '.join(given)}), which "
            f"the {backend} backend does not join by this. TensorFlow joins "
            "those of TF_CONFIG and SLURM, JAX those that "
            "KERAS_DISTRIBUTION_JOB_ADDRESSES names, PyTorch those of torchrun."
        )
    if backend == "tensorflow":
        return _start_tensorflow(threads)
    if backend == "jax":
        return _start_jax()
    return _start_torch(threads)


def _start_tensorflow(threads: int) -> Any:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    # On a CPU an attack computes the two halves of a batch at the same time,
    # so an operation gets half of the threads. With GPUs, TensorFlow chooses
    # unless a number was given.
    if threads or not gpus:
        threads = threads or os.cpu_count() or 1
        config = tf.config.threading
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already.
            config.set_intra_op_parallelism_threads((threads + 1) // 2)
            config.set_inter_op_parallelism_threads(min(2, threads))
    if processes.slurm() or processes.tf_config():
        # By default TensorFlow exchanges gradients over gRPC.
        experimental = tf.distribute.experimental
        collectives = experimental.CommunicationImplementation
        options = experimental.CommunicationOptions(
            implementation=collectives.NCCL if gpus else collectives.AUTO
        )
        resolver = None
        if not processes.tf_config():
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
        return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    names = replica_devices()
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else None


def replica_devices() -> list[str]:
    """TensorFlow's devices, each of which gets a replica of the model."""
    import tensorflow as tf

    return [gpu.name for gpu in tf.config.list_logical_devices("GPU")]


def _start_jax() -> Any:
    if processes.jax_job():
        keras.distribution.initialize()
    devices = keras.distribution.list_devices()
    if len(devices) < 2:
        return None
    distribution = keras.distribution.DataParallel(
        devices=devices,
        # The data sets of keras-wake give each process its share.
        auto_shard_dataset=False,
    )
    keras.distribution.set_distribution(distribution)
    return distribution


def _start_torch(threads: int) -> Any:
    import torch

    if threads:
        torch.set_num_threads(threads)
    if not processes.torch_job():
        return None
    torch.distributed.init_process_group()
    return torch.distributed.get_world_size()


def describe() -> str:
    """GPUs and CPU in words."""
    backend = keras.backend.backend()
    names: list[str] = []
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        names = [
            details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")
        ]
    elif backend == "jax":
        import jax

        names = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    elif backend == "torch":
        import torch

        numbers = range(torch.cuda.device_count())
        names = [torch.cuda.get_device_name(number) for number in numbers]
    cpu = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return ", ".join([*names, cpu])


@contextlib.contextmanager
def scope(started: Any) -> Iterator[int]:
    """Where to make and compile a model; gives the number of replicas.

    It takes what `start` has returned.
    """
    if started is None:
        yield 1
    elif keras.backend.backend() == "torch":
        yield started
    elif keras.backend.backend() == "jax":
        yield started.device_mesh.devices.size
    else:
        with started.scope():
            yield started.num_replicas_in_sync

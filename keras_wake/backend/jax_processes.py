"""What the devices and the processes of `keras.distribution` share on JAX."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import keras
from jax.experimental import multihost_utils

from keras_wake.backend._common import gathered_as_bytes
from keras_wake.utils.types import Tensor


def data_shard() -> tuple[int, int, int]:
    """JAX divides the share of a process evenly among its devices."""
    if keras.distribution.distribution() is None:
        return 0, 1, 1
    processes = jax.process_count()
    return jax.process_index(), processes, max(1, _shares() // processes)


def _shares() -> int:
    """Into how many shares `keras.distribution` divides a batch.

    With `ModelParallel`, devices that have parts of the same weights have the
    same share.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return int(mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)])


def check_distribution() -> None:
    """Refuses weights that are divided among processes.

    Raises:
        ValueError: For `ModelParallel` in several processes.
    """
    distribution = keras.distribution.distribution()
    divided = isinstance(distribution, keras.distribution.ModelParallel)
    if divided and jax.process_count() > 1:
        raise ValueError(
            "Each of several processes needs all weights: to check the "
            "classifier, to attack it and to write a backup. Use "
            "`keras.distribution.DataParallel`, or `ModelParallel` on the "
            f"devices of one process. Received: {jax.process_count()} "
            "processes and a `ModelParallel`."
        )


def processes(model: keras.Model) -> tuple[int, int]:
    """The number of this process, and how many work together."""
    return jax.process_index(), jax.process_count()


def gather_objects(model: keras.Model, value: object) -> list[Any]:
    """The `value` of each process, which all have to call this."""
    if jax.process_count() == 1:
        return [value]
    return gathered_as_bytes(
        lambda array: list(multihost_utils.process_allgather(array)), value
    )


@contextlib.contextmanager
def saving_in_one_process() -> Iterator[None]:
    """A context in which one process may save by itself.

    Keras makes a variable when it saves an optimizer. Under a distribution, all
    processes would have to take part in that.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def own_value(variable: keras.Variable) -> Tensor:
    """The value of a variable, for what one of several processes computes.

    With the value of all processes, all would have to compute the same.
    """
    value = variable.value
    if jax.process_count() == 1 or value.is_fully_addressable:
        return value
    return value.addressable_data(0)


def device_count(model: keras.Model) -> int:
    """The devices of the batch axis of `keras.distribution`.

    Several processes each compute all of a batch.
    """
    return 1 if jax.process_count() > 1 else _shares()

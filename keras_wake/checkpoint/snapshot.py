"""All that a training step changes: copies of it, on the host or the device.

Student, teacher, their counters and random states, and the optimizer.
"""

from collections.abc import Sequence

import keras
import numpy as np

from keras_wake import backend
from keras_wake.utils.types import Tensor


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """The variables of a compiled model that training changes, in order."""
    model.sync_variables()
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def check_complete(model: keras.Model) -> None:
    """Refuses a model that computes with more than its variables."""
    if backend.buffers(model.classifier):
        raise ValueError(
            "A backup cannot hold the statistics of a PyTorch module, so a "
            "run that goes on from it would be another one. Use layers of "
            f"Keras. Received: the classifier {model.classifier.name!r}."
        )


def take(model: keras.Model) -> list[np.ndarray]:
    """The values of `variables_of(model)`.

    Where the replicas of a variable differ, their values are stacked.
    """
    return [_value_of(variable) for variable in variables_of(model)]


def _value_of(variable: keras.Variable) -> np.ndarray:
    values = [backend.to_numpy(r) for r in backend.replicas_of(variable)]
    if all(np.array_equal(value, values[0]) for value in values[1:]):
        return values[0]
    return np.stack(values)


def copy(model: keras.Model) -> list[list[Tensor]]:
    """As `take`, on the device: nothing waits for it.

    For each variable the values of its replicas.
    """
    return [
        [backend.copy(replica) for replica in backend.replicas_of(variable)]
        for variable in variables_of(model)
    ]


def check(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    """Raises a `ValueError` if these are not values of these variables."""
    what = "The values are those of another model or optimizer: "
    if len(variables) != len(values):
        raise ValueError(
            f"{what}{len(variables)} variables in this script, {len(values)} "
            "in the backup."
        )
    for variable, value in zip(variables, values, strict=True):
        shape, found = tuple(variable.shape), np.shape(value)
        if shape != found and not (shape == found[1:] and found[0] > 1):
            raise ValueError(
                f"{what}{variable.path} has shape {shape} in this script and "
                f"{found} in the backup."
            )


def put_back(model: keras.Model, values: Sequence) -> None:
    """Sets the variables of a model to what `take` or `copy` has returned."""
    variables = variables_of(model)
    if values and isinstance(values[0], list):
        for variable, own in zip(variables, values, strict=True):
            replicas = backend.replicas_of(variable)
            for replica, value in zip(replicas, own, strict=True):
                replica.assign(value)
        return
    check(variables, list(values))
    for variable, value in zip(variables, values, strict=True):
        assign(variable, value)


def assign(variable: keras.Variable, value: np.ndarray) -> None:
    """Sets a variable to what `take` has returned for it."""
    replicas = backend.replicas_of(variable)
    if np.ndim(value) == len(variable.shape):
        variable.assign(value)
    elif len(replicas) == len(value):
        for replica, own in zip(replicas, value, strict=True):
            replica.assign(own)
    else:
        # Of another number of replicas: all go on with the first one's.
        variable.assign(value[0])

"""What several of the backends have in common."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

NO_GRADIENT = (
    "The logits of the classifier have no gradient with respect to the images, "
    "so no attack can follow it. Look for what cuts it: a cast to integers, "
    "rounding, `stop_gradient`, or NumPy inside the network."
)


def to_numpy(value: Any) -> Any:
    """A variable or tensor as a NumPy array of its own, outside of a step.

    Under TensorFlow's replicas it is the value that they have in common; of a
    metric's variable, the sum of theirs.
    """
    tensor = keras.ops.convert_to_tensor(value)
    return np.array(keras.ops.convert_to_numpy(tensor))


# Where one call of a step sees the batch of all devices: JAX and PyTorch.


def side_by_side(function: Callable, *tensors: Any) -> Any:
    """`function(*tensors)`: nothing is gained by cutting the batch."""
    return function(*tensors)


def global_sum(value: Any) -> Any:
    """`value` itself: a step sees the batch of all devices."""
    return value


def replica_index() -> int:
    """Always 0: a step sees the batch of all devices."""
    return 0


def replicas_of(variable: Any) -> list[Any]:
    """The variable of each replica: one is enough, as all are the same."""
    return [variable]


# Where all random numbers come from variables or explicit seeds: TensorFlow
# and JAX.


def random_state() -> Any:
    """None: there is no global generator that a layer of Keras would use."""


def set_random_state(state: Any) -> None:
    """Does nothing."""


# Where a step changes the variables themselves: TensorFlow and PyTorch.


def alone() -> contextlib.AbstractContextManager:
    """Where one of several processes does something by itself: anywhere."""
    return contextlib.nullcontext()


class VariablesInPlace(keras.Model):
    """Reading of variables between the steps of an epoch."""

    def metric_values(self, metric: Any) -> list[Any]:
        """The variables of a metric after the newest step, as NumPy arrays."""
        return [to_numpy(variable) for variable in metric.variables]

    def sync_variables(self) -> None:
        """Does nothing: the variables are up to date."""

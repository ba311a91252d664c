"""JAX: input gradients, compiled functions, and what devices share.

Under `keras.distribution` the functions here see the batch of all devices;
JAX itself divides the work.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import jax
import keras

from keras_wake.backend._jax_trainer import Trainer as Trainer
from keras_wake.utils.types import Tensor


def gradient(function: Callable, values: Tensor) -> Tensor:
    """Gradient of the scalar `function(values)`, a tensor or a list of them."""
    return jax.grad(function)(values)


def gradient_and_outputs(
    function: Callable, value: Tensor
) -> tuple[Tensor, Any]:
    """Gradient of a scalar, and what else the function has computed for it.

    Args:
        function: Maps `value` to a pair: the scalar, and a structure of
            tensors.
        value: Tensor.

    Returns:
        The gradient, and the structure, through which no gradient goes.
    """
    return jax.grad(function, has_aux=True)(value)


def unroll_loops() -> bool:
    """Whether a loop is faster written out.

    On a CPU it is: a PGD-10 step of PreActResNet-18 (width 16, batch 64) takes
    several times as long as a loop, in which XLA does not parallelise
    convolutions (`benchmarks/backends.py`).
    """
    return jax.default_backend() == "cpu"


def repeat(times: int, function: Callable, value: Tensor) -> Tensor:
    """`function` applied to `value` so many times."""
    if not unroll_loops():
        return jax.lax.fori_loop(0, times, lambda _, v: function(v), value)
    for _ in range(times):
        value = function(value)
    return value


def without_gradient(function: Callable) -> Tensor:
    """The result of `function()`, through which no gradient goes."""
    return jax.lax.stop_gradient(function())


def data_shard() -> tuple[int, int, int]:
    """How a host's input pipeline has to divide each batch of the data.

    Returns:
        The number of this process, how many processes share a batch, and the
        number that the size of a process's share must be a multiple of:
        that of its devices, among which JAX divides it evenly.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 0, 1, 1
    devices = distribution.device_mesh.devices.size
    return (
        jax.process_index(),
        jax.process_count(),
        max(1, devices // jax.process_count()),
    )


@contextlib.contextmanager
def alone() -> Iterator[None]:
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


def jit_by_default() -> bool:
    """Always: without it, JAX dispatches every operation by itself."""
    return True


def compile(function: Callable, model: Callable) -> Callable:
    """Compiles `function` of tensors, which reads the variables of a model.

    Args:
        function: Tensors to tensors; its updates of variables are dropped.
        model: Called without arguments, returns the model. Its variables
            become arguments of what is compiled, so that they stay live.
    """

    @jax.jit
    def stateless(values: list[Tensor], *tensors: Tensor) -> Tensor:
        state = zip(model().variables, values, strict=True)
        with keras.StatelessScope(state_mapping=state):
            return function(*tensors)

    def run(*tensors: Tensor) -> Tensor:
        return stateless([v.value for v in model().variables], *tensors)

    return run


def device_count(model: keras.Model) -> int:
    """Among how many devices `compile_split` divides a batch.

    Those of the batch axis of `keras.distribution`. Several processes each
    compute all of it.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or jax.process_count() > 1:
        return 1
    mesh = distribution.device_mesh
    axis = mesh.axis_names.index(distribution.batch_dim_name)
    return int(mesh.shape[axis])


def compile_split(function: Callable, model: Callable, split: int) -> Callable:
    """`compile`, for batches of a few sizes, each divided among the devices.

    It is compiled once for each size.

    Args:
        function: Tensors to a tensor (batch, ...), sample by sample.
        model: Called without arguments, returns the model.
        split: How many arguments, the first ones, have a batch axis. Its size
            must be a multiple of `device_count(model())`.
    """
    compiled = compile(function, model)

    def run(*tensors: Tensor) -> Tensor:
        if device_count(model()) == 1:
            return compiled(*tensors)
        layout = keras.distribution.distribution().get_data_layout
        shares = [
            keras.distribution.distribute_tensor(tensor, layout(tensor.shape))
            for tensor in tensors[:split]
        ]
        return compiled(*shares, *tensors[split:])

    return run

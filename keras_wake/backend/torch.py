"""PyTorch: input gradients and the eager steps, on one device."""

from collections.abc import Callable
from typing import Any

import keras
import torch

from keras_wake.backend import keras_compat
from keras_wake.backend._common import CommonTrainer
from keras_wake.backend._common import no_gradient
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor


def gradient(function: Callable, values: Tensor) -> Tensor:
    """Gradient of the scalar `function(values)`, a tensor or a list of them.

    The weights get none, which saves the work of computing it.
    """
    with torch.enable_grad():
        leaves = keras.tree.map_structure(
            lambda value: value.detach().requires_grad_(), values
        )
        result = function(leaves)
        if not result.requires_grad:
            return no_gradient(values)
        flat = keras.tree.flatten(leaves)
        several = isinstance(values, list)
        # Those that do not affect the result get zeros.
        found = torch.autograd.grad(
            result, flat, allow_unused=True, materialize_grads=several
        )
        if found[0] is None:
            return no_gradient(values)
        return keras.tree.pack_sequence_as(values, found)


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
    with torch.enable_grad():
        leaf = value.detach().requires_grad_()
        result, outputs = function(leaf)
        found = None
        if result.requires_grad:
            (found,) = torch.autograd.grad(result, leaf, allow_unused=True)
    if found is None:
        found = no_gradient(value)
    return found, keras.tree.map_structure(lambda out: out.detach(), outputs)


def repeat(times: int, function: Callable, value: Tensor) -> Tensor:
    """`function` applied to `value` so many times."""
    for _ in range(times):
        value = function(value)
    return value


def without_gradient(function: Callable) -> Tensor:
    """The result of `function()`, of which nothing is kept for a gradient."""
    with torch.no_grad():
        return function()


def data_shard() -> tuple[int, int, int]:
    """Always (0, 1, 1): one process has the whole batch."""
    return 0, 1, 1


def buffers(network: keras.Model) -> list[Tensor]:
    """Tensors of PyTorch modules in a network that are no variables.

    The statistics of a batch norm for example, which a step changes.
    """
    found: dict[int, Tensor] = {}
    for layer in keras_compat.flatten_layers(network):
        found.update((id(buffer), buffer) for buffer in layer.buffers())
    return list(found.values())


def random_state() -> Json:
    """That of PyTorch's generators, which `Dropout` without a seed uses."""
    return {
        "cpu": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in torch.cuda.get_rng_state_all()],
    }


def set_random_state(state: Json) -> None:
    """Goes on from what `random_state` has returned."""
    torch.set_rng_state(torch.from_numpy(state["cpu"]))
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(
            [torch.from_numpy(own) for own in state["cuda"]]
        )


def jit_by_default() -> bool:
    """Never: `torch.compile` does not pay off for most, as in Keras."""
    return False


def compile(function: Callable, model: Callable) -> Callable:
    """`function` of tensors as it is, without recording gradients.

    Args:
        function: Tensors to tensors.
        model: Called without arguments, returns the model that it reads.
    """

    def run(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*tensors)

    return run


def device_count(model: keras.Model) -> int:
    """Always 1: one process computes on one device."""
    return 1


def compile_split(function: Callable, model: Callable, split: int) -> Callable:
    """As `compile`: there is one device, and every size of a batch will do.

    Args:
        function: Tensors to a tensor.
        model: Called without arguments, returns the model.
        split: How many arguments have a batch axis.
    """
    return compile(function, model)


class Trainer(CommonTrainer):
    """The steps of `fit` and `evaluate`, for `WakeModel`."""

    def make_train_function(self, force: bool = False) -> Callable | None:
        """As in Keras, for one process."""
        group = torch.distributed
        if group.is_available() and group.is_initialized():
            if group.get_world_size() > 1:
                raise ValueError(
                    "With PyTorch, `fit` runs in one process: nothing would "
                    "average the gradients of several. Received: a process "
                    f"group of {group.get_world_size()}. Take the TensorFlow "
                    "or JAX backend for several devices."
                )
        return super().make_train_function(force=force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attack, update the student, average the teacher, report."""
        with torch.no_grad():
            batch = self.training_step.attacked(data)
            self.training_step.perturb_weights(batch)
            updates_before = self.optimizer_updates()
        super().train_step(batch)
        with torch.no_grad():
            self.training_step.finish(self.optimizer_updates() - updates_before)
            return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        return self.evaluation_step.evaluate(
            data,
            lambda: self.losses,
            keras_compat.compiled_metrics(self),
        )

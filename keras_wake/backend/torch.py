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


def gradient_and_outputs(
    function: Callable, values: Tensor
) -> tuple[Tensor, Any]:
    """Gradient of a scalar, and what else the function has computed."""
    found = (None,)
    with torch.enable_grad():
        # Leaves of their own: the weights get no gradient.
        leaves = keras.tree.map_structure(
            lambda value: value.detach().requires_grad_(), values
        )
        result, outputs = function(leaves)
        if result.requires_grad:
            # Of several tensors, those that do not affect the result get zeros.
            found = torch.autograd.grad(
                result,
                keras.tree.flatten(leaves),
                allow_unused=True,
                materialize_grads=isinstance(values, list),
            )
    outputs = keras.tree.map_structure(lambda out: out.detach(), outputs)
    if found[0] is None:
        return no_gradient(values), outputs
    return keras.tree.pack_sequence_as(values, found), outputs


def repeat(times: int, function: Callable, value: Tensor) -> Tensor:
    """`function` applied to `value` so many times."""
    for _ in range(times):
        value = function(value)
    return value


def without_gradient(function: Callable) -> Tensor:
    """The result of `function()`, of which nothing is kept for a gradient."""
    with torch.no_grad():
        return function()


def copy(variable: keras.Variable) -> Tensor:
    """The value of a variable, in a tensor of its own on the same device."""
    return variable.value.detach().clone()


def all_finite(values: list[Tensor]) -> Tensor:
    """Whether no entry of any tensor is NaN or infinite, a boolean scalar."""
    tensors = [getattr(value, "value", value) for value in values]
    # The largest absolute values, in few calls.
    return torch.nn.utils.get_total_norm(tensors, float("inf")).isfinite()


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


def accelerators() -> list[str]:
    """The names of the GPUs."""
    numbers = range(torch.cuda.device_count())
    names = [torch.cuda.get_device_name(number) for number in numbers]
    return names + ["MPS"] * torch.backends.mps.is_available()


def jit_by_default() -> bool:
    """Never: `torch.compile` does not pay off for most, as in Keras."""
    return False


def compile(function: Callable, get_model: Callable) -> Callable:
    """`function` as it is, without recording gradients."""

    def run(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*tensors)

    return run


def device_count(model: keras.Model) -> int:
    """Always 1: one process computes on one device."""
    return 1


def compile_split(
    function: Callable, get_model: Callable, split: int
) -> Callable:
    """As `compile`: there is one device, and every size of a batch will do."""
    return compile(function, get_model)


class Trainer(CommonTrainer):
    """The steps of `fit` and `evaluate`, for `WakeModel`."""

    jit_by_default = staticmethod(jit_by_default)

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
            batch = self.training_step.check_and_attack(data)
            self.training_step.perturb_weights(batch)
            updates_before = self.optimizer_updates()
        super().train_step(batch)
        with torch.no_grad():
            self.training_step.finish(self.optimizer_updates() - updates_before)
            return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        return self.evaluate_batch(data)

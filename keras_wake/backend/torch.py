"""PyTorch: input gradients and the eager steps, each process on one device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import torch

from keras_wake.backend import _common
from keras_wake.backend import keras_compat
from keras_wake.backend import torch_processes
from keras_wake.backend._common import CommonTrainer
from keras_wake.backend._common import no_gradient
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor

torch_processes.take_own_gpu()


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


def batches_may_shrink() -> bool:
    """Always: nothing is compiled."""
    return True


def without_gradient(function: Callable) -> Tensor:
    """The result of `function()`, of which nothing is kept for a gradient."""
    with torch.no_grad():
        return function()


def recomputed(function: Callable) -> Callable:
    """`function`, of which a gradient keeps the arguments only.

    A trace would lose that, so tracing such a network ends with an error.

    Raises:
        RuntimeError: While a network is traced.
    """
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    if get_proxy_mode() is not None:
        raise RuntimeError("Gradient checkpointing cannot be traced.")
    return _common.recomputed(function)


def copy(variable: keras.Variable) -> Tensor:
    """The value of a variable, in a tensor of its own on the same device."""
    return variable.value.detach().clone()


def all_finite(values: list[Tensor]) -> Tensor:
    """Whether no entry of any tensor is NaN or infinite, a boolean scalar."""
    tensors: list[torch.Tensor] = [
        value.value if isinstance(value, keras.Variable) else value
        for value in values
    ]
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


def global_sum(value: Tensor) -> Tensor:
    """Sum of `value` over all processes; `value` itself where there is one."""
    (total,) = torch_processes.sums([value])
    return total


def batch_positions(size: int) -> Tensor:
    """Positions of this process's images in the global batch, (size,)."""
    device = keras.ops.zeros(()).device
    return torch_processes.positions(int(size), device)


def replica_index() -> int:
    """Number of the process."""
    return torch_processes.rank_and_count()[0]


def data_shard() -> tuple[int, int, int]:
    """Each process has a share of the batch, for its one device."""
    return *torch_processes.rank_and_count(), 1


def check_distribution() -> None:
    """Refuses `keras.distribution`.

    Keras 3.15 shares nothing out by it on PyTorch. What 3.16 shares out would
    be shared a second time.

    Raises:
        ValueError: If a distribution is set.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "On PyTorch, keras-wake shares the work among processes by itself, "
            "without `keras.distribution`. Start the script by `torchrun`, "
            "call `torch.distributed.init_process_group()`, and leave the "
            f"distribution out. Received: {type(distribution).__name__}."
        )


def processes(model: keras.Model) -> tuple[int, int]:
    """The number of this process, and how many work together."""
    return torch_processes.rank_and_count()


def gather_objects(model: keras.Model, value: object) -> list[Any]:
    """The `value` of each process, which all have to call this."""
    return torch_processes.of_all(value)


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

    def choose_jit(self, given: bool | str) -> tuple[bool, bool]:
        """`True` traces the network for the attack, the rest is eager.

        `torch.compile` of a whole step does not come to an end.
        """
        return False, given is True

    def make_train_function(self, force: bool = False) -> Callable | None:
        """As in Keras. Processes start with the variables of the chief."""
        check_distribution()
        self.start_pass()
        return super().make_train_function(force=force)

    def make_test_function(self, force: bool = False) -> Callable | None:
        """As in Keras. Processes start with the variables of the chief."""
        check_distribution()
        self.start_pass()
        return super().make_test_function(force=force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attack, update the student, average the teacher, report."""
        with torch_processes.step("train"):
            with torch.no_grad():
                batch = self.training_step.check_and_attack(data)
                self.training_step.perturb_weights(batch)
                updates_before = self.optimizer_updates()
            with torch_processes.changes_shared(
                self._metrics_to_sum, self._moving_statistics
            ):
                self._update(batch)
            with torch.no_grad():
                updates = self.optimizer_updates() - updates_before
                self.training_step.finish(updates)
                return self.get_metrics_result()

    def _update(self, batch: Any) -> None:
        """The update of Keras; with several processes, one by all gradients.

        The loss of each is a part of that of the whole batch, so that the
        gradients add up.
        """
        weights = self.trainable_weights
        if torch_processes.rank_and_count()[1] == 1 or not weights:
            super().train_step(batch)
            return
        images, labels, sample_weight = batch
        logits = self(images, training=True)
        self.zero_grad()
        loss = self.compute_loss(images, labels, logits, sample_weight)
        self.optimizer.scale_loss(loss).backward()
        # A weight that this share does not reach, another one may.
        gradients = [
            torch.zeros_like(v.value) if v.value.grad is None else v.value.grad
            for v in weights
        ]
        with torch.no_grad():
            self.optimizer.apply(torch_processes.sums(gradients), weights)
        self.compute_metrics(images, labels, logits, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        with torch_processes.step("test"):
            return self.evaluate_batch(data)

    def shared_metrics(self) -> AbstractContextManager:
        """A block in which metrics are updated, by what all processes found."""
        return torch_processes.changes_shared(self._metrics_to_sum)

    def _metrics_to_sum(self) -> list[keras.Variable]:
        return [
            variable
            for metric in self.metrics
            for variable in metric.variables
            if variable.aggregation == "sum"
        ]

    def _moving_statistics(self) -> list[Any]:
        """What the forward pass of the student changes, as batch norm does."""
        network = self.classifier
        return [
            value
            for value in (*network.non_trainable_variables, *buffers(network))
            if keras.backend.is_float_dtype(
                keras.backend.standardize_dtype(value.dtype)
            )
        ]

    def start_pass(self) -> None:
        """Gives all processes the variables of the chief."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        if self.compiled:
            variables += self.optimizer.variables
        torch_processes.equalise([*variables, *buffers(self)])

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several that writes files."""
        return torch_processes.rank_and_count()[0] == 0

    def of_all_processes(self, value: Tensor) -> list[Tensor]:
        """The `value` of each process, the chief's first."""
        return torch_processes.of_all(value)

"""What several of the backends have in common."""

import contextlib
import math
import pickle
import re
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_wake.backend import keras_compat
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor

NO_GRADIENT = (
    "The logits of the classifier have no gradient with respect to the images, "
    "so no attack can follow it. Look for what cuts it: a cast to integers, "
    "rounding, `stop_gradient`, or NumPy inside the network."
)
# How the backends say that a device is full, each with an error of its own.
_NO_MEMORY = re.compile(
    "out of memory|resource.?exhausted|OOM when allocating"
    "|can't allocate memory",
    re.IGNORECASE,
)
_LESS_IN_A_STEP = (
    "Lower `batch_size` first. `WakeModel(keep_recovery_copy=False)` does "
    "without a copy of all weights, and under the policy `mixed_bfloat16` the "
    "outputs of layers take half as much. The residual networks of "
    "`keras_wake.models` keep less of them with `gradient_checkpointing=True`. "
    "With `BackupAndRestore` a run goes on after its last complete epoch."
)
# How many `cut_gradients_are_zero` blocks are open, in all threads.
_cut_is_zero = 0
_counting = threading.Lock()


def no_gradient(values: Tensor) -> Tensor:
    """What stands for a gradient that does not exist, where that is no error.

    Raises:
        ValueError: Outside of `cut_gradients_are_zero`.
    """
    if not _cut_is_zero:
        raise ValueError(NO_GRADIENT)
    return keras.tree.map_structure(keras.ops.zeros_like, values)


@contextlib.contextmanager
def cut_gradients_are_zero() -> Iterator[None]:
    """Makes gradients that do not exist zeros, as they always are on JAX.

    For an evaluation, which warns of them, and whose black-box attacks need
    none. Not a context variable: replicas are traced in threads of their own.
    """
    global _cut_is_zero
    with _counting:
        _cut_is_zero += 1
    try:
        yield
    finally:
        with _counting:
            _cut_is_zero -= 1


def to_numpy(value: Tensor) -> np.ndarray:
    """A variable or tensor as a NumPy array of its own, outside of a step.

    Under TensorFlow's replicas it is the value that they have in common; of a
    metric's variable, the sum of theirs.
    """
    tensor = keras.ops.convert_to_tensor(value)
    return np.array(keras.ops.convert_to_numpy(tensor))


def all_finite(values: list[Tensor]) -> Tensor:
    """Whether no entry of any tensor is NaN or infinite, a boolean scalar.

    By one sum, which is not finite as soon as an entry is not. It is scaled so
    that finite entries cannot overflow it.
    """
    total = keras.ops.zeros((), "float32")
    for value in values:
        scale = 0.5 / max(1, math.prod(value.shape)) / len(values)
        total += keras.ops.sum(scale * keras.ops.cast(value, "float32"))
    return keras.ops.isfinite(total)


# Defaults for JAX, where one call of a step sees the batch of all devices.
# (PyTorch uses `where_sample`, `while_loop_of_any_size`, `side_by_side`,
# `metric_sum` and `replicas_of`, too. `data_shard` is TensorFlow's.)


def where_sample(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """For each sample `new` where `which` (batch,) holds, else `old`."""
    shape = (-1, *[1] * (len(old.shape) - 1))
    return keras.ops.where(keras.ops.reshape(which, shape), new, old)


def batches_may_shrink() -> bool:
    """Never: JAX compiles for one size of a batch."""
    return False


def while_loop_of_any_size(
    condition: Callable, body: Callable, values: tuple
) -> tuple:
    """`keras.ops.while_loop` in which the axis of the batch may get smaller."""
    return keras.ops.while_loop(condition, body, values)


def side_by_side(function: Callable, *tensors: Tensor) -> Tensor:
    """`function(*tensors)`: nothing is gained by cutting the batch."""
    return function(*tensors)


def global_sum(value: Tensor) -> Tensor:
    """`value` itself: a step sees the batch of all devices."""
    return value


def batch_positions(size: int | Tensor) -> Tensor:
    """The positions of `size` images in the batch of all devices, (size,)."""
    return keras.ops.arange(size, dtype="int32")


def metric_sum(variable: keras.Variable) -> Tensor:
    """The variable of a metric: it is that of the batch of all devices."""
    return keras.ops.convert_to_tensor(variable)


def replica_index() -> int:
    """Always 0: a step sees the batch of all devices."""
    return 0


def data_shard() -> tuple[int, int, int]:
    """One process has the whole batch, or a framework divides it by itself."""
    return 0, 1, 1


# Whether devices must have equal shares of a batch. On JAX they must.
divides_evenly = False


def replicas_of(variable: keras.Variable) -> list[keras.Variable]:
    """The variable of each replica: one is enough, as all are the same."""
    return [variable]


def own_value(variable: keras.Variable) -> Tensor:
    """The value of a variable, for what one of several processes computes."""
    return keras.ops.convert_to_tensor(variable)


def check_distribution() -> None:
    """Refuses a `keras.distribution` under which results would be wrong."""


def gathered_as_bytes(
    all_gather: Callable[[np.ndarray], list[np.ndarray]], value: object
) -> list[Any]:
    """What each process has passed, by a function that gathers arrays.

    Args:
        all_gather: The array of each process. It takes int32 arrays, of the
            same shape in all processes.
        value: Anything that can be pickled.
    """
    content = pickle.dumps(value)
    sizes = [int(size) for size in all_gather(np.array(len(content), np.int32))]
    padded = np.zeros(-(-max(sizes) // 4), np.int32)
    padded.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    return [
        pickle.loads(np.ascontiguousarray(found).tobytes()[:size])
        for found, size in zip(all_gather(padded), sizes, strict=True)
    ]


# For TensorFlow, and PyTorch outside of a trace.


def recomputed(function: Callable) -> Callable:
    """`function`, of which a gradient keeps the arguments only.

    Its results and arguments are float tensors, or lists of them. The first
    argument is one tensor, on which all of the results depend.
    """
    return keras.remat(function)


# Where all random numbers come from variables or explicit seeds: TensorFlow
# and JAX.


def random_state() -> Json:
    """None: there is no global generator that a layer of Keras would use."""


def set_random_state(state: Json) -> None:
    """Does nothing."""


def buffers(network: keras.Model) -> list[Tensor]:
    """Nothing: what a step changes is in variables."""
    return []


# Where one process saves by itself: TensorFlow and PyTorch.


def saving_in_one_process() -> contextlib.AbstractContextManager:
    """Nothing is needed for it."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def memory_error_says(what: str, advice: str) -> Iterator[None]:
    """A block in which a full device raises a `MemoryError` with advice.

    Args:
        what: What the memory is not enough for.
        advice: What to lower.
    """
    try:
        yield
    except Exception as error:
        # The line that says so; TensorFlow adds a screenful.
        lines = filter(_NO_MEMORY.search, str(error).splitlines())
        found = next(lines, None)
        if found is None or isinstance(error, MemoryError):
            raise
        raise MemoryError(
            f"The memory of the device is not enough for {what}. {advice} "
            f"({found})"
        ) from error


class CommonTrainer(keras.Model):
    """What the trainers have in common.

    The defaults are for one process, whose variables are always up to date; JAX
    overrides them, and TensorFlow those for several workers.
    """

    # Whether a trainable variable keeps what a layer assigns to it in the
    # forward pass. JAX drops it.
    keeps_assignments_of_forward_pass = True
    # Whether a step is given the values of all variables, as on JAX.
    steps_take_variables = False
    jit_by_default: Callable[[], bool]
    # `keras_wake.training.guard.InputGuard`.
    input_guard: Any
    train_function: Any
    test_function: Any

    def make_train_function(self, force: bool = False) -> Callable | None:
        """As in Keras. After each call, the guard may read its counts."""
        before = self.train_function
        result = super().make_train_function(force=force)
        if self.train_function is not before:
            self.train_function = self._guarded(self.train_function, "train")
        return result

    def make_test_function(self, force: bool = False) -> Callable | None:
        """As in Keras. After each call, the guard may read its counts."""
        before = self.test_function
        result = super().make_test_function(force=force)
        if self.test_function is not before:
            self.test_function = self._guarded(self.test_function, "test")
        return result

    def _guarded(self, function: Callable, phase: str) -> Callable:
        def call(*args: Any) -> Any:
            step = "training" if phase == "train" else "evaluation"
            with memory_error_says(f"a step of {step}", _LESS_IN_A_STEP):
                result = function(*args)
                self.input_guard.after_step(phase)
            return result

        return call

    def set_steps(self, training_step: Any, evaluation_step: Any) -> None:
        """Takes the parts that `train_step` and `test_step` call.

        Args:
            training_step: `keras_wake.training.step.TrainingStep`.
            evaluation_step: `EvaluationStep` of
                `keras_wake.training.evaluation_step`.
        """
        self.training_step = training_step
        self.evaluation_step = evaluation_step

    def choose_jit(self, given: bool | str) -> tuple[bool, bool]:
        """What `compile(jit_compile=given)` means here.

        Returns:
            Whether Keras compiles the whole step, and whether the attack is
            compiled by itself.
        """
        auto = given == "auto"
        return (self.jit_by_default() if auto else bool(given)), False

    def evaluate_batch(self, data: Any) -> dict[str, Tensor]:
        """Evaluates a batch without any update, and returns the logs."""
        compiled = keras_compat.compiled_metrics(self)
        with self.shared_metrics():
            self.evaluation_step.run(data, lambda: self.losses, compiled)
        return self.evaluation_step.logs(compiled)

    def shared_metrics(self) -> contextlib.AbstractContextManager:
        """A block in which metrics are updated; replicas add them up later."""
        return contextlib.nullcontext()

    def start_pass(self) -> None:
        """Makes the variables of processes equal before a pass over the data.

        Those of TensorFlow and JAX are.
        """

    def optimizer_updates(self) -> Tensor:
        """How often the weights were updated, an int32 scalar.

        With `gradient_accumulation_steps` not in each step.
        """
        # `+ 0` makes a tensor of the present value; a variable would change
        # with the update.
        return keras.ops.cast(self.optimizer.iterations, "int32") + 0

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several that writes files."""
        return True

    def of_all_processes(self, value: Tensor) -> list[Tensor]:
        """The `value` of each process, the chief's first.

        Every process must make this call.

        Args:
            value: A number or a NumPy array of the same shape in all.
        """
        return [value]

    def metric_values(self, metric: keras.metrics.Metric) -> list[np.ndarray]:
        """The variables of a metric after the newest step."""
        return [to_numpy(variable) for variable in metric.variables]

    def sync_variables(self) -> None:
        """Brings variables up to date between the steps of an epoch."""

"""JAX: input gradients, and the compiled steps.

Under `keras.distribution` the functions here see the batch of all devices;
JAX itself divides the work.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_wake.backend import keras_compat
from keras_wake.backend._common import CommonTrainer
from keras_wake.backend._common import to_numpy
from keras_wake.backend.jax_processes import device_count
from keras_wake.backend.jax_processes import own_value
from keras_wake.utils.labels import with_int32_labels
from keras_wake.utils.types import Tensor


def gradient_and_outputs(
    function: Callable, values: Tensor
) -> tuple[Tensor, Any]:
    """Gradient of a scalar, and what else the function has computed."""
    return jax.grad(function, has_aux=True)(values)


def unroll_loops() -> bool:
    """Whether a loop is faster written out.

    On a CPU it is. Written as a loop, a PGD-10 step of PreActResNet-18 (width
    16, batch 64) takes several times as long, because XLA does not parallelise
    convolutions in a loop (`benchmarks/backends.py`).
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


def recomputed(function: Callable) -> Callable:
    """`function`, of which a gradient keeps the arguments only.

    Not `jax.checkpoint`: on a CPU, XLA finds that it computes the same twice,
    and keeps the first result. So here the second call depends on the gradient,
    by its first argument.
    """
    call = jax.custom_vjp(function)

    def forward(*tensors: Any) -> tuple[Any, Any]:
        return function(*tensors), tensors

    def backward(tensors: Any, gradient: Any) -> Any:
        first, *others = tensors
        entry = jax.tree.leaves(gradient)[0].ravel()[0]
        # XLA cannot tell that it is 0, or NaN if the gradient is.
        zero = jax.numpy.where(entry == entry, 0.0, jax.numpy.nan)
        later = first + zero.astype(first.dtype)
        return jax.vjp(function, later, *others)[1](gradient)

    call.defvjp(forward, backward)
    return call


def copy(variable: keras.Variable) -> Tensor:
    """The value of a variable, in an array of its own on the same devices.

    The step gives the buffers of variables away.
    """
    return jax.numpy.copy(variable.value)


divides_evenly = True


def accelerators() -> list[str]:
    """The names of the GPUs and TPUs of all processes."""
    return [d.device_kind for d in jax.devices() if d.platform != "cpu"]


def jit_by_default() -> bool:
    """Always: without it, JAX dispatches every operation by itself."""
    return True


def compile(function: Callable, get_model: Callable) -> Callable:
    """Compiles `function`, of which the variables become arguments."""

    @jax.jit
    def stateless(values: list[Tensor], *tensors: Tensor) -> Tensor:
        state = zip(get_model().variables, values, strict=True)
        with keras.StatelessScope(state_mapping=state):
            return function(*tensors)

    def run(*tensors: Tensor) -> Tensor:
        values = [own_value(v) for v in get_model().variables]
        result = stateless(values, *tensors)
        if jax.process_count() == 1:
            return result
        # An array from the host is bound to no device. So it may go into a call
        # of the network, whose weights are on the devices of all processes.
        return keras.tree.map_structure(
            lambda value: jax.numpy.asarray(np.asarray(value)), result
        )

    return run


def compile_split(
    function: Callable, get_model: Callable, split: int
) -> Callable:
    """`compile`, each batch divided among the devices; once for each size."""
    compiled = compile(function, get_model)

    def run(*tensors: Tensor) -> Tensor:
        if device_count(get_model()) == 1:
            return compiled(*tensors)
        layout = keras.distribution.distribution().get_data_layout
        shares = [
            keras.distribution.distribute_tensor(tensor, layout(tensor.shape))
            for tensor in tensors[:split]
        ]
        return compiled(*shares, *tensors[split:])

    return run


# The groups of variables that a step is given, by Keras's names for them.
_PREDICTED = ("trainable_variables", "non_trainable_variables")
_EVALUATED = (*_PREDICTED, "metrics_variables")
_TRAINED = (*_PREDICTED, "optimizer_variables", "metrics_variables")


class Trainer(CommonTrainer):
    """The steps that `fit` and `evaluate` compile, for `WakeModel`.

    A step is a function of the values of all variables: each part of it runs
    in a scope that holds these values and collects the new ones.
    """

    keeps_assignments_of_forward_pass = False
    steps_take_variables = True
    jit_by_default = staticmethod(jit_by_default)
    predict_function: Any
    # The metrics' values after the newest step.
    _newest: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        """As in Keras, which looks for variables in the state of each step."""
        if name == keras_compat.JAX_STATE:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def train_step(self, state: Any, data: Any) -> tuple[Any, Any]:
        """Attack, update the student, average the teacher, report."""
        groups = self._variables(_TRAINED)
        with _scope(groups, state) as scope:
            batch = self.training_step.check_and_attack(data)
            self.training_step.perturb_weights(batch)
            updates_before = self.optimizer_updates()
        _, state = super().train_step(_values(groups, scope), batch)
        with _scope(groups, state) as scope:
            self.training_step.finish(self.optimizer_updates() - updates_before)
            logs = self.get_metrics_result()
        return logs, _values(groups, scope)

    def test_step(self, state: Any, data: Any) -> tuple[Any, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        groups = self._variables(_EVALUATED)
        with _scope(groups, state) as scope:
            logs = self.evaluate_batch(data)
        return logs, _values(groups, scope)

    def _variables(self, names: Sequence[str]) -> tuple[Sequence[Any], ...]:
        return tuple(
            self.optimizer.variables
            if name == "optimizer_variables"
            else getattr(self, name)
            for name in names
        )

    def _guarded(self, function: Callable, phase: str) -> Callable:
        names = _TRAINED if phase == "train" else _EVALUATED
        return super()._guarded(self._keeping_state(function, names), phase)

    def make_predict_function(self, force: bool = False) -> None:
        """As in Keras, with `_keeping_state`."""
        before = self.predict_function
        super().make_predict_function(force=force)
        if self.predict_function is not before:
            self.predict_function = self._keeping_state(
                self.predict_function, _PREDICTED
            )

    def _keeping_state(
        self, function: Callable, names: Sequence[str]
    ) -> Callable:
        """`function`, which survives Ctrl-C, and casts 64-bit labels."""
        measures = "metrics_variables" in names

        def step(state: Any, iterator: Any) -> tuple[Any, Any]:
            newest = state
            try:
                # The step donates the buffers of `state`: until Keras has the
                # new ones, nothing may stop.
                with _interrupted_afterwards():
                    batches = map(with_int32_labels, iterator)
                    logs, newest = function(state, batches)
                    self._hand_to_keras(names, newest)
            except BaseException as error:
                # Keras has taken the values out of the variables.
                self._hand_to_keras(names, newest)
                self.jax_state_sync()
                empty = measures and self._newest is None
                if isinstance(error, StopIteration) and empty:
                    raise ValueError(
                        "The data set is empty: it yielded no batch."
                    ) from error
                raise
            # Bringing the variables themselves up to date after each step,
            # as `sync_variables` does, would take milliseconds.
            if measures:
                self.__dict__["_newest"] = newest[-1]  # `setattr` is slow.
            return logs, newest

        return step

    def _hand_to_keras(self, names: Sequence[str], state: Any) -> None:
        """Sets what `jax_state_sync` puts into the variables."""
        keras_compat.set_jax_state(self, dict(zip(names, state, strict=True)))

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several that writes files."""
        return jax.process_index() == 0

    def of_all_processes(self, value: Tensor) -> list[Tensor]:
        """The `value` of each process, the chief's first."""
        if jax.process_count() == 1:
            return [value]
        return list(multihost_utils.process_allgather(np.array(value)))

    def metric_values(self, metric: keras.metrics.Metric) -> list[np.ndarray]:
        """The variables of a metric after the newest step, as NumPy arrays."""
        places = map(id, self.metrics_variables)
        newest = dict(zip(places, self._newest or (), strict=False))
        return [to_numpy(newest.get(id(v), v)) for v in metric.variables]

    def reset_metrics(self) -> None:
        """As in Keras."""
        self._newest = None
        super().reset_metrics()

    def sync_variables(self) -> None:
        """Brings variables up to date between the steps of an epoch."""
        self.jax_state_sync()


def _scope(groups: Any, state: Any) -> keras.StatelessScope:
    """A scope in which the groups of variables have the values of `state`."""
    pairs = [
        pair
        for variables, values in zip(groups, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    # Losses that layers add are known to the scope alone.
    return keras.StatelessScope(pairs, collect_losses=True)


def _values(groups: Any, scope: Any) -> tuple[list[Any], ...]:
    return tuple(
        [scope.get_current_value(v) for v in group] for group in groups
    )


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block; a second one acts at once."""
    handler = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or not callable(handler):
        yield
        return
    waiting: list[tuple[Any, Any]] = []

    def wait(number: int, frame: Any) -> None:
        if waiting:
            handler(number, frame)
        waiting.append((number, frame))

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[0])

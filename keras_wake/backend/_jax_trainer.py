"""JAX: the steps that Keras compiles, as functions of all variables."""

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
from keras_wake.utils.labels import with_int32_labels
from keras_wake.utils.types import Tensor

_TRAINED = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)
_EVALUATED = (
    "trainable_variables",
    "non_trainable_variables",
    "metrics_variables",
)
_PREDICTED = ("trainable_variables", "non_trainable_variables")


class Trainer(CommonTrainer):
    """The steps that `fit` and `evaluate` compile, for `WakeModel`.

    A step is a function of the values of all variables: each part of it runs
    in a scope that holds these values and collects the new ones.
    """

    # What a layer assigns to a trainable variable ends with the pass.
    keeps_assignments_of_forward_pass = False
    train_function: Any
    test_function: Any
    predict_function: Any
    # The metrics' values after the newest step.
    _newest: Any = None

    def train_step(self, state: Any, data: Any) -> tuple[Any, Any]:
        """Attack, update the student, average the teacher, report."""
        groups = self._variables(_TRAINED)
        with _scope(groups, state) as scope:
            batch = self.training_step.attacked(data)
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
            logs = self.evaluation_step.evaluate(
                data,
                lambda: self.losses,
                keras_compat.compiled_metrics(self),
            )
        return logs, _values(groups, scope)

    def _variables(self, names: Sequence[str]) -> tuple[Sequence[Any], ...]:
        """Groups of variables by the names that Keras has for them."""
        return tuple(
            self.optimizer.variables
            if name == "optimizer_variables"
            else getattr(self, name)
            for name in names
        )

    def make_train_function(self, force: bool = False) -> None:
        """As in Keras; keeps metrics, survives Ctrl-C, casts 64-bit labels."""
        before = self.train_function
        super().make_train_function(force=force)
        if self.train_function is not before:
            self.train_function = self._keeping_state(
                self.train_function, _TRAINED
            )

    def make_test_function(self, force: bool = False) -> None:
        """As in Keras; keeps metrics, survives Ctrl-C, casts 64-bit labels."""
        before = self.test_function
        super().make_test_function(force=force)
        if self.test_function is not before:
            self.test_function = self._keeping_state(
                self.test_function, _EVALUATED
            )

    def make_predict_function(self, force: bool = False) -> None:
        """As in Keras; the weights survive Ctrl-C."""
        before = self.predict_function
        super().make_predict_function(force=force)
        if self.predict_function is not before:
            self.predict_function = self._keeping_state(
                self.predict_function, _PREDICTED
            )

    def _keeping_state(
        self, function: Callable, names: Sequence[str]
    ) -> Callable:
        measures = "metrics_variables" in names

        def step(state: Any, iterator: Any) -> tuple[Any, Any]:
            newest = state
            try:
                # The buffers of `state` are given away when a step is
                # started: until Keras has the new ones, nothing may stop.
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
                self._newest = newest[-1]
            return logs, newest

        return step

    def _hand_to_keras(self, names: Sequence[str], state: Any) -> None:
        """Has `state` be what `jax_state_sync` puts into the variables."""
        keras_compat.set_jax_state(self, dict(zip(names, state, strict=True)))

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several that writes files."""
        return jax.process_index() == 0

    def of_all_processes(self, value: Tensor) -> list[Tensor]:
        """The `value` of each process, the chief's first.

        Every process must make this call.

        Args:
            value: A number or a NumPy array of the same shape in all.
        """
        if jax.process_count() == 1:
            return [value]
        return list(multihost_utils.process_allgather(np.array(value)))

    def metric_values(self, metric: keras.metrics.Metric) -> list[np.ndarray]:
        """The variables of a metric after the newest step, as NumPy arrays."""
        newest = dict(
            zip(
                map(id, self.metrics_variables),
                self._newest or (),
                strict=False,
            )
        )
        return [to_numpy(newest.get(id(v), v)) for v in metric.variables]

    def reset_metrics(self) -> None:
        """As in Keras."""
        self._newest = None
        super().reset_metrics()

    def sync_variables(self) -> None:
        """Brings variables up to date between the steps of an epoch."""
        self.jax_state_sync()


def _pairs(groups: Any, state: Any) -> list[tuple[Any, Any]]:
    """Each variable with its value."""
    return [
        pair
        for variables, values in zip(groups, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]


@contextlib.contextmanager
def _scope(groups: Any, state: Any) -> Iterator[Any]:
    # Losses that layers add are known to the scope alone.
    with keras.StatelessScope(
        _pairs(groups, state), collect_losses=True
    ) as scope:
        yield scope


def _values(groups: Any, scope: Any) -> tuple[list[Any], ...]:
    return tuple(
        [scope.get_current_value(v) for v in group] for group in groups
    )


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Has Ctrl-C act at the end of the block; a second one acts at once."""
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

"""One `fit`: what it was given, its callbacks, and what they switch on."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.callbacks import Callback
from keras.callbacks import History

from keras_wake.checkpoint import callback_states
from keras_wake.schedules import Schedule
from keras_wake.training.fit import data_settings
from keras_wake.utils.types import Dataset

# Callbacks of Keras that write files.
_WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


@dataclasses.dataclass(eq=False)
class Switches:
    """What callbacks have switched on, for the steps that are compiled next.

    Attributes:
        averager: The callback that averages the student into the teacher.
        pretrained: Callbacks with networks that were trained before.
        attribution: Whether evaluation measures attribution vectors.
    """

    averager: Any = None
    pretrained: tuple[Any, ...] = ()
    attribution: bool = False

    @property
    def distils(self) -> bool:
        """Whether the average is taken in each step, to learn from it."""
        return self.averager is not None and self.averager.distils

    def reset(self) -> None:
        """Switches everything off."""
        self.averager, self.pretrained, self.attribution = None, (), False

    def end_fit(self) -> None:
        """Switches off what lasts no longer than a `fit`."""
        self.pretrained, self.attribution = (), False

    def set_attribution(self, on: bool) -> None:
        """Sets whether evaluation measures attribution vectors."""
        self.attribution = on

    def set_averager(self, averager: Any) -> None:
        """Sets the callback that averages the student into the teacher.

        Args:
            averager: The callback that asks. It defines `distils`: whether
                each step takes the average, so that the student may learn
                from it from the first step on; `average(student, teacher,
                updates, active)`, called in each step if `distils` is true;
                and `bring_up_to_date()`, called before each validation.

        Raises:
            ValueError: If another callback has asked before.
        """
        if self.averager not in (None, averager):
            raise ValueError(
                "A model has one average, so one callback may make it. "
                f"Received: {type(self.averager).__name__} and "
                f"{type(averager).__name__} among the callbacks."
            )
        self.averager = averager

    def add_pretrained(
        self, teacher: Any, num_classes: int, schedule: Schedule | None
    ) -> None:
        """Switches on a teacher that was trained before.

        Args:
            teacher: The callback that asks. It has `teacher`, a checked
                `keras.Model` of `num_classes`, and `weight`, the constant
                weight of its term.
            num_classes: Of the student.
            schedule: Gives the weight of the average.

        Raises:
            ValueError: If it does not fit the student, or the weights of all
                teachers are more than 1 together.
        """
        if teacher.num_classes != num_classes:
            raise ValueError(
                "A teacher must know the classes of the student. Received: a "
                f"teacher of {teacher.num_classes} classes for a student of "
                f"{num_classes}."
            )
        teachers = (*self.pretrained, teacher)
        weights = [each.weight for each in teachers]
        average = 0.0 if schedule is None else schedule.largest_weight
        if sum(weights) + average > 1 + 1e-6:
            raise ValueError(
                "The weights of all teachers must not exceed 1 together. "
                f"Received: {weights} for pretrained teachers, and up to "
                f"{average:g} for the average, by the schedule."
            )
        self.pretrained = teachers

    def check_average(
        self, schedule: Schedule | None, teacher_in_use: bool
    ) -> None:
        """Raises for a schedule without an average to distil from.

        Warns where the average of an earlier `fit` stays as it is.
        """
        if schedule is not None and not self.distils:
            raise ValueError(
                "The schedule distils from a running average, but no callback "
                "makes one. Add `keras_wake.callbacks.EMATeacher()` to the "
                "callbacks of `fit`, or pass `schedule=None`."
            )
        if self.averager is None and teacher_in_use:
            warnings.warn(
                "The teacher of an earlier `fit` stays as it is, and stays "
                "the `robust_classifier`: no callback of this `fit` averages "
                "it. Add the same `keras_wake.callbacks.EMATeacher` to go on.",
                stacklevel=3,
            )


class FitSession:
    """One call of `fit`, for its callbacks: `WakeModel.session` while it runs.

    A callback may define:

    - `before_fit(session)`: called before Keras starts. It returns the epoch
      to start with, counted from 0, or `None`. `self.model` may not be set
      yet: use `session.model`.
    - `after_fit(session)`: called when `fit` ends, also if it ends with an
      error.
    - `runs_last = True`: the callback runs after all others.
    - `chief_only = True`: of several processes, only the chief runs it.

    Args:
        model: The `WakeModel`.
        given: The arguments of `fit`, by name.
        callbacks: The callbacks in their order.

    Attributes:
        epochs: Number of epochs at the end, as in `fit`.
        initial_epoch: As in `fit`.
        initial_epoch_given: Whether it was given: then this `fit` may be one
            of several that make up a run.
        has_validation: Whether there are validation data.
        data: The training data `(x, y)`, as given.
        data_settings: How `fit` divides the data, for the record of a backup.
    """

    def __init__(
        self,
        model: keras.Model,
        given: dict[str, Any],
        callbacks: list[Callback],
    ) -> None:
        validation = given.get("validation_data") is not None
        self.model = model
        self.epochs = int(given.get("epochs", 1))
        self.initial_epoch = int(given.get("initial_epoch", 0))
        self.initial_epoch_given = "initial_epoch" in given
        self.has_validation = validation or bool(given.get("validation_split"))
        self.data: tuple[Dataset, Any] = given.get("x"), given.get("y")
        self.data_settings = data_settings(given)
        self.callbacks = tuple(callbacks)

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Calls the hooks of the callbacks; gives the epoch to start with."""
        with contextlib.ExitStack() as stack:
            first = self.initial_epoch
            for callback in self.callbacks:
                if isinstance(callback, _WRITERS):
                    stack.enter_context(_failing_with_a_warning(callback))
                if hasattr(callback, "after_fit"):
                    stack.callback(callback.after_fit, self)
                if hasattr(callback, "before_fit"):
                    epoch = callback.before_fit(self)
                    first = first if epoch is None else epoch
            yield first


def prepared_callbacks(
    given: keras.callbacks.CallbackList | list | Callback | None,
    model: keras.Model,
) -> list[Callback]:
    """Callbacks of `fit` or `evaluate`: checked, and in their order.

    The guard against wrong data runs first, and what says `runs_last` last.
    """
    if isinstance(given, keras.callbacks.CallbackList):
        given = given.callbacks
    callbacks: list[Callback] = []
    for callback in keras.tree.flatten(given or []):
        _check(callback, callbacks)
        callbacks.append(callback)
    if not model.is_chief:
        # Workers that write the same file at the same time would spoil it.
        callbacks = [
            callback
            for callback in callbacks
            if not isinstance(callback, _WRITERS)
            and not getattr(callback, "chief_only", False)
        ]
    if model.input_guard not in callbacks:
        callbacks.insert(0, model.input_guard)
    last = [c for c in callbacks if getattr(c, "runs_last", False)]
    if last and not any(isinstance(c, History) for c in callbacks):
        # Keras would add it at the very end, after those that run last.
        callbacks.append(History())
    return [*(c for c in callbacks if c not in last), *last]


def _check(callback: Callback, before: list[Callback]) -> None:
    """Refuses what would fail later, and sets the direction of metrics."""
    name = type(callback).__name__
    if any(callback is other for other in before):
        settings = callback_states.arguments_of(callback).items()
        text = ", ".join(f"{name}={value!r}" for name, value in settings)
        raise ValueError(
            f"The same `{name}` is twice among the callbacks, and would be "
            f"called twice. Pass it once. Received: {text or callback!r}."
        )
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise TypeError(
            "`keras.callbacks.BackupAndRestore` does not restore the random "
            "states, the history and the other callbacks of a `WakeModel`. "
            "Use `keras_wake.BackupAndRestore(backup_dir)`."
        )
    if (
        isinstance(callback, keras.callbacks.ModelCheckpoint)
        and not callback.save_weights_only
        and not str(callback.filepath).endswith(".keras")
    ):
        raise ValueError(
            "The file of a `ModelCheckpoint` must end in `.keras`, or with "
            "`save_weights_only=True` in `.weights.h5`. Received: "
            f"filepath={str(callback.filepath)!r}."
        )
    # With "auto", Keras refuses metrics that `compile` was not given.
    monitor = getattr(callback, "monitor", None)
    higher = isinstance(monitor, str) and monitor.endswith(("accuracy", "cas"))
    if higher and getattr(callback, "mode", None) == "auto":
        callback.mode = "max"


@contextlib.contextmanager
def _failing_with_a_warning(writer: Callback) -> Iterator[None]:
    """Turns errors of a callback that writes into warnings, within the block.

    A full disk or a lost network share is no reason to lose an epoch.
    """
    # In `on_train_begin` it is an error: a path that is wrong is known at once.
    hooks = [
        hook
        for hook in vars(Callback)
        if hook.startswith("on_")
        and hook != "on_train_begin"
        and getattr(type(writer), hook) is not getattr(Callback, hook)
    ]
    for hook in hooks:
        setattr(writer, hook, _tolerant(writer, getattr(writer, hook)))
    try:
        yield
    finally:
        for hook in hooks:
            delattr(writer, hook)


def _tolerant(writer: Callback, hook: Callable) -> Callable:
    """Calls the hook of a writer; an `OSError` in it is a warning."""

    def call(*args: object, **logs: object) -> None:
        # A checkpoint changes its best value before it writes.
        best = getattr(writer, "best", None)
        try:
            hook(*args, **logs)
        except OSError as error:
            if best is not None:
                writer.best = best
            warnings.warn(
                f"`{type(writer).__name__}` could not write: {error}. Files "
                "that were complete stay as they are. Training goes on, and "
                "writing is tried again next time.",
                stacklevel=2,
            )

    return call

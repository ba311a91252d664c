"""What one `fit` was given, and what its callbacks have switched on."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_wake.schedules import Schedule
from keras_wake.utils.types import Dataset


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
        self,
        teacher: Any,
        num_classes: int,
        networks: tuple[keras.Model, keras.Model],
        schedule: Schedule | None,
    ) -> None:
        """Switches on a teacher that was trained before.

        Args:
            teacher: The callback that asks. It has `teacher`, a checked
                `keras.Model` of `num_classes`, and `weight`, the constant
                weight of its term.
            num_classes: Of the student.
            networks: The student and its average.
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
        if any(teacher.teacher is network for network in networks):
            raise ValueError(
                "A pretrained teacher must be a network of its own. Received: "
                f"{teacher.teacher.name!r}, a network of the `WakeModel` "
                "itself."
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
        """Checks that a callback averages where that is needed.

        Args:
            schedule: Of the distillation.
            teacher_in_use: Whether the teacher was ever averaged.

        Raises:
            ValueError: If a schedule has no average to distil from.
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


@dataclasses.dataclass(eq=False)
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

    Attributes:
        model: The `WakeModel`.
        epochs: Number of epochs at the end, as in `fit`.
        initial_epoch: As in `fit`.
        one_of_several: Whether `initial_epoch` was given: this `fit` may be
            one part of a run.
        has_validation: Whether there are validation data.
        data: The training data `(x, y)`, as given.
        batches: How `fit` divides the data, for the record of a backup.
        callbacks: The callbacks in their order, without wrappers.
    """

    model: keras.Model
    epochs: int
    initial_epoch: int
    one_of_several: bool
    has_validation: bool
    data: tuple[Dataset, Any]
    batches: dict[str, Any]
    callbacks: tuple[keras.callbacks.Callback, ...] = ()

    @classmethod
    def of(
        cls, model: keras.Model, given: dict[str, Any], batches: dict[str, Any]
    ) -> "FitSession":
        """The session of a `fit` with these arguments."""
        validation = given.get("validation_data") is not None
        return cls(
            model=model,
            epochs=int(given.get("epochs", 1)),
            initial_epoch=int(given.get("initial_epoch", 0)),
            one_of_several="initial_epoch" in given,
            has_validation=validation or bool(given.get("validation_split")),
            data=(given.get("x"), given.get("y")),
            batches=batches,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Calls the hooks of the callbacks; gives the epoch to start with."""
        with contextlib.ExitStack() as stack:
            first = self.initial_epoch
            for callback in self.callbacks:
                if hasattr(callback, "after_fit"):
                    stack.callback(callback.after_fit, self)
                if hasattr(callback, "before_fit"):
                    epoch = callback.before_fit(self)
                    first = first if epoch is None else epoch
            yield first

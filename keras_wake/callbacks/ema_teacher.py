"""The teacher of WAKE: a running average of the student's weights."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.callbacks._average import TeacherAverage
from keras_wake.schedules import AdaptiveRamp
from keras_wake.schedules import DistillationRamp
from keras_wake.utils import validate


class EMATeacher(TeacherAverage):
    """Averages the student into the model's teacher, inside the step.

    After every update of the student, until epoch t_e of the schedule begins
    (Algorithm 2; without a schedule, for ever):

        θ̄ ← α θ̄ + (1 − α) θ

    With an `AdaptiveRamp` the averaging ends, and the ramp begins, when the
    teacher's robust accuracy on the validation images has stopped to rise;
    the teacher then is that of its best epoch. `ramp` is the ramp that was
    found, or None. If `fit` ends before, the teacher becomes that of its best
    epoch at the end of it.

    The teacher starts as a copy of the student; a second `fit` goes on with
    the average of the first. A schedule counts the epochs of `fit`, so a
    second one continues it with `initial_epoch=`, and an `AdaptiveRamp` also
    with the same `EMATeacher`, which remembers the search. With
    `gradient_accumulation_steps` the average moves when the weights do.

    Args:
        decay: α in [0, 1). Defaults to `0.999`.
        batch_norm: What becomes of the teacher's batch-norm statistics.
            `"average"`: averaged with the same α. `"copy"`: the student's.
            `"reestimate"`: the mean over one pass over `data`, taken before
            every validation and at the end, as in stochastic weight
            averaging. Defaults to `"average"`.
        warmup: Whether the n-th update uses min(α, (1 + n) / (10 + n)), n
            counted from 0, so that a short run is not dominated by its first
            weights. Defaults to `False`.
        data: Training images for `"reestimate"`: anything that yields (x, y)
            batches more than once, or a pair of arrays. A pass over
            `Splits.train` counts as an epoch of it, unless `set_epoch` pins
            the epoch; `Splits.arrays("train")` has no such effect. Defaults
            to `None`.

    Raises:
        ValueError: If `decay` is outside [0, 1), for an unknown `batch_norm`,
            or if `data` is missing or has no use.

    Example:

    ```python
    model.fit(
        train,
        epochs=200,
        callbacks=[keras_wake.callbacks.EMATeacher(decay=0.999)],
    )
    model.robust_classifier.save("robust.keras")
    ```
    """

    distils = True

    def __init__(
        self,
        decay: float = 0.999,
        batch_norm: str = "average",
        warmup: bool = False,
        data: Any = None,
    ) -> None:
        super().__init__(data)
        self.decay = validate.in_range(0, 1, decay=decay)
        if self.decay == 1:
            raise ValueError(
                "`decay` must be below 1, else the teacher never moves. "
                f"Received: decay={decay!r}."
            )
        modes = ("average", "copy", "reestimate")
        self.batch_norm = validate.one_of(modes, batch_norm=batch_norm)
        if (batch_norm == "reestimate") != (data is not None):
            raise ValueError(
                '`data` is for `batch_norm="reestimate"`, which needs it: '
                f"pass both or neither. Received: batch_norm={batch_norm!r}, "
                f"data={'None' if data is None else type(data).__name__}."
            )
        self.warmup = validate.boolean(warmup=warmup)
        self._first_epoch = True
        self._epoch = 0
        self._searched_in: Any = None
        self._forget_search()

    def _forget_search(self) -> None:
        # What an `AdaptiveRamp` looks for: the best epoch of the teacher.
        self.ramp: DistillationRamp | None = None
        self._best = -1.0
        self._best_teacher: list[np.ndarray] = []
        self._waited = 0

    def set_model(self, model: Any) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        if model is not self._searched_in:
            self._forget_search()
        self._searched_in = model

    def average(
        self, student: Any, teacher: Any, updates: Any, active: Any
    ) -> None:
        """One update of the average, with tensors, inside the step.

        Args:
            student: `keras.Model`, θ.
            teacher: `keras.Model` of the same architecture, θ̄.
            updates: Integer scalar n, the updates before this one.
            active: Boolean scalar; if false nothing changes.
        """
        rate = ops.convert_to_tensor(1 - self.decay, "float32")
        if self.warmup:
            n = ops.cast(updates, "float32")
            rate = ops.maximum(rate, 1 - (1 + n) / (10 + n))
        copied = self.batch_norm == "copy"
        trainable = {id(variable) for variable in student.trainable_variables}
        for mean, value in zip(
            teacher.variables, student.variables, strict=True
        ):
            if not keras.backend.is_float_dtype(mean.dtype):
                continue
            target = ops.convert_to_tensor(value)
            current = ops.convert_to_tensor(mean)
            if id(value) in trainable or not copied:
                step = ops.cast(rate, mean.dtype)
                target = current - step * (current - target)
            # A choice, not a product with 0: a student that has become NaN
            # must not reach a frozen teacher.
            mean.assign(ops.where(active, target, current))
        for mean, value in self.buffers:
            target = mean - ops.cast(rate, mean.dtype) * (mean - value)
            target = value if copied else target
            mean.copy_(ops.where(active, target, mean))

    def on_train_begin(self, logs: Any = None) -> None:
        """Lets a teacher that was never averaged start as the student."""
        self._forget_estimate()
        schedule = self.model.schedule
        adaptive = isinstance(schedule, AdaptiveRamp)
        if adaptive and not self.model.fit_has_validation:
            raise ValueError(
                "An `AdaptiveRamp` follows the teacher's robust accuracy on "
                "validation images, and `fit` has none. Pass "
                "`validation_data=`, held out of the training images."
            )
        if int(backend.to_numpy(self.model.teacher_updates)) == 0:
            self.model.teacher.set_weights(self.model.classifier.get_weights())
            for mean, value in self.buffers:
                mean.copy_(value)
        self._first_epoch = True
        epochs = (self.params or {}).get("epochs")
        if not isinstance(schedule, DistillationRamp) or epochs is None:
            return
        one_of_several = self.model.fit_is_one_of_several
        if epochs <= schedule.start_epoch and not one_of_several:
            warnings.warn(
                f"`fit` ends with epoch {epochs}, before distillation begins: "
                f"{schedule!r}. Train for more than {schedule.start_epoch} "
                "epochs, or begin earlier: `DistillationRamp.for_epochs(n)` "
                "is made for n epochs. If another `fit` continues this one, "
                "pass `initial_epoch=0` here to silence this warning, and "
                "`initial_epoch=` there.",
                stacklevel=2,
            )

    def _warn_of_restart(self, t: int) -> None:
        adaptive = isinstance(self.model.schedule, AdaptiveRamp)
        same = " with the same `EMATeacher`" if adaptive else ""
        frozen = float(backend.to_numpy(self.model.teacher_averaging)) == 0
        if frozen and int(backend.to_numpy(self.model.teacher_updates)) > 0:
            warnings.warn(
                f"The schedule starts again at epoch {t}, and the teacher, "
                "which was frozen, is averaged again. To continue instead, "
                f"pass `initial_epoch=` to `fit`{same}.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets λ_t, and freezes the teacher from epoch t_e on."""
        self._epoch = t = epoch + 1
        schedule = self.model.schedule
        if self._first_epoch and epoch == 0:
            self._forget_search()
        if isinstance(schedule, AdaptiveRamp):
            ramp, averaging = self.ramp, self.ramp is None
        else:
            ramp = schedule
            averaging = ramp is None or t < ramp.end_epoch
        self.model.kd_weight.assign(0.0 if ramp is None else ramp(t))
        if self._first_epoch and averaging and schedule is not None:
            self._warn_of_restart(t)
        self._first_epoch = False
        self.model.teacher_averaging.assign(float(averaging))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Brings the teacher up to date; an `AdaptiveRamp` may begin."""
        self.bring_up_to_date()
        schedule = self.model.schedule
        found = (logs or {}).get("val_teacher_robust_accuracy")
        if not isinstance(schedule, AdaptiveRamp) or self.ramp is not None:
            return
        teacher = self.model.teacher
        if found is not None and found > self._best:
            self._best, self._waited = float(found), 0
            self._best_teacher = teacher.get_weights()
        elif found is not None:
            self._waited += 1
        t = epoch + 1
        late = schedule.latest_start is not None and t >= schedule.latest_start
        if self._waited >= schedule.patience or late:
            self.ramp = schedule.from_epoch(t)
            if self._best_teacher:
                teacher.set_weights(self._best_teacher)
            self._best_teacher = []

    def on_train_end(self, logs: Any = None) -> None:
        """Puts the best teacher back where an `AdaptiveRamp` never began."""
        schedule, ramp = self.model.schedule, self.ramp
        if not isinstance(schedule, AdaptiveRamp):
            return
        # A run that is restored when it has ended trains no epoch.
        if ramp is not None and (
            self._first_epoch or self._epoch > ramp.start_epoch
        ):
            return
        if self._best_teacher:
            self.model.teacher.set_weights(self._best_teacher)
        measured = self._best >= 0
        best = ", which is that of its best epoch" if measured else ""
        warnings.warn(
            f"`fit` has ended before distillation began: {schedule!r} waits "
            "until the teacher has not become better in `patience` "
            "evaluations. The student has learned nothing from the "
            f"teacher{best}. Train for more epochs, lower `patience`, or set "
            "`latest_start`.",
            stacklevel=2,
        )

    def get_state(self) -> dict[str, Any]:
        """What `BackupAndRestore` keeps; the teacher is part of the model."""
        return {
            "estimated_at": self._estimated_at,
            "start_epoch": self.ramp and self.ramp.start_epoch,
            "best": self._best,
            "best_teacher": self._best_teacher,
            "waited": self._waited,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` has returned."""
        self._estimated_at = state["estimated_at"]
        self._best, self._waited = state["best"], state["waited"]
        self._best_teacher = list(state["best_teacher"])
        self.ramp = None
        schedule, start = self.model.schedule, state["start_epoch"]
        if isinstance(schedule, AdaptiveRamp) and start is not None:
            self.ramp = schedule.from_epoch(start)

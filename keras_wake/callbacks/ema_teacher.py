"""The teacher of WAKE: a running average of the student's weights."""

import warnings

import keras
from keras import ops

from keras_wake import backend
from keras_wake.callbacks._base import assign
from keras_wake.callbacks._base import TeacherAverage
from keras_wake.schedules import DistillationRamp
from keras_wake.schedules import Schedule
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Logs
from keras_wake.utils.types import State
from keras_wake.utils.types import Tensor


class _NoDistillation(Schedule):
    """Weight 0 in every epoch, and a teacher that is averaged in each."""

    def __call__(self, t: int) -> float:
        return 0.0


class EMATeacher(TeacherAverage):
    """Averages the student into the model's teacher, inside the step.

    After every update of the student, until epoch t_e of the schedule begins
    (Algorithm 2; without a schedule, for ever):

        θ̄ ← α θ̄ + (1 − α) θ

    With an `AdaptiveRamp`, averaging ends and the ramp begins when the
    teacher's robust accuracy on the validation images no longer rises. The
    teacher then goes back to its best epoch, also if `fit` ends before that.

    The teacher starts as a copy of the student, and a second `fit` goes on
    with the average of the first. To continue a schedule, which counts epochs
    of `fit`, pass `initial_epoch=` to the second `fit`; an `AdaptiveRamp`
    needs the same `EMATeacher`, which remembers the search. With
    `gradient_accumulation_steps` the average moves when the weights do.

    Args:
        decay: α in [0, 1). Defaults to `0.999`.
        batch_norm: Where the teacher's batch-norm statistics come from.
            `"average"`: averaged with the same α. `"copy"`: the student's.
            `"reestimate"`: the mean over one pass over `data`, before every
            validation and at the end, as in stochastic weight averaging.
            Defaults to `"average"`.
        warmup: Whether the n-th update uses min(α, (1 + n) / (10 + n)), n
            counted from 0, so that the first weights do not dominate a short
            run. Defaults to `False`.
        data: Training images for `"reestimate"`: a pair of arrays (x, y), or
            anything that yields such batches more than once. A pass over
            `Splits.train` counts as an epoch of it, unless `set_epoch` pins
            the epoch; better take `Splits.arrays("train")`. In several
            processes each passes over all of them: on JAX and PyTorch arrays
            or data of `keras_wake.datasets`. Defaults to `None`.

    Raises:
        ValueError: If `decay` is outside [0, 1), for an unknown `batch_norm`,
            or if `data` is missing or has no use.

    Example:

    ```python
    teacher = kw.callbacks.EMATeacher(decay=0.999)
    model.fit(train, epochs=200, callbacks=[teacher])
    model.robust_classifier.save("robust.keras")
    ```
    """

    distils = True

    def __init__(
        self,
        decay: float = 0.999,
        batch_norm: str = "average",
        warmup: bool = False,
        data: Dataset = None,
    ) -> None:
        super().__init__(data)
        self.decay = validate.fraction(decay=decay)
        modes = ("average", "copy", "reestimate")
        self.batch_norm = validate.one_of(modes, batch_norm=batch_norm)
        if (batch_norm == "reestimate") != (data is not None):
            raise ValueError(
                '`data` is for `batch_norm="reestimate"`, which needs it: '
                f"pass both or neither. Received: batch_norm={batch_norm!r}, "
                f"data={'None' if data is None else type(data).__name__}."
            )
        self.warmup = validate.boolean(warmup=warmup)
        self._last_epoch: int | None = None
        self._schedule: Schedule = _NoDistillation()
        self._scheduled_model: keras.Model | None = None

    @property
    def ramp(self) -> DistillationRamp | None:
        """The ramp that an `AdaptiveRamp` has found, else `None`."""
        return self._schedule.ramp

    def set_model(self, model: keras.Model) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        if model is not self._scheduled_model:
            self._start_schedule()

    def _start_schedule(self) -> None:
        self._scheduled_model = self.model
        self._schedule = (self.model.schedule or _NoDistillation()).start()

    def average(
        self,
        student: keras.Model,
        teacher: keras.Model,
        updates: Tensor,
        active: Tensor,
    ) -> None:
        """One update of the average after `updates` others, inside the step.

        If the boolean scalar `active` is false, nothing changes.
        """
        rate = ops.convert_to_tensor(1 - self.decay, "float32")
        if self.warmup:
            n = ops.cast(updates, "float32")
            rate = ops.maximum(rate, 1 - (1 + n) / (10 + n))
        trained = {id(variable) for variable in student.trainable_variables}
        for of_teacher, of_student in self.averaged_pairs:
            current = ops.convert_to_tensor(of_teacher)
            new = ops.convert_to_tensor(of_student)
            if id(of_student) in trained or self.batch_norm != "copy":
                step = ops.cast(rate, current.dtype) * (current - new)
                new = current - step
            # `where`, because a product with 0 would let NaN of the student
            # into a frozen teacher.
            assign(of_teacher, ops.where(active, new, current))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Copies the student to a teacher that was never averaged."""
        super().on_train_begin(logs)
        model, session = self.model, self.model.session
        epochs = None if session.initial_epoch_given else session.epochs
        if model.schedule is not None:
            model.schedule.check_fit(epochs, session.has_validation)
        if int(backend.to_numpy(model.teacher_updates)) == 0:
            model.teacher.set_weights(model.classifier.get_weights())
            for of_teacher, of_student in self.averaged_pairs:
                if not isinstance(of_teacher, keras.Variable):  # No weight.
                    assign(of_teacher, of_student)
        self._last_epoch = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Sets λ_t, and freezes the teacher from epoch t_e on."""
        t = epoch + 1
        first_of_fit, self._last_epoch = self._last_epoch is None, t
        if first_of_fit and t == 1:
            self._start_schedule()
        averages = self._schedule.averages(t)
        self.model.kd_weight.assign(self._schedule(t))
        if first_of_fit and averages and self.model.schedule is not None:
            frozen = not backend.to_numpy(self.model.teacher_averaging)
            if frozen and backend.to_numpy(self.model.teacher_updates) > 0:
                warnings.warn(
                    f"The schedule starts again at epoch {t}, and the teacher, "
                    "which was frozen, is averaged again. To continue, pass "
                    "`initial_epoch=` to `fit` with the same `EMATeacher`.",
                    stacklevel=2,
                )
        self.model.teacher_averaging.assign(float(averages))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Brings the teacher up to date; the schedule may freeze it."""
        self.bring_up_to_date()
        accuracy = (logs or {}).get("val_teacher_robust_accuracy")
        self._schedule.after_epoch(epoch + 1, self.model.teacher, accuracy)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Lets the schedule put the best teacher back."""
        self._schedule.after_fit(self._last_epoch, self.model.teacher)

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps; the teacher is part of the model."""
        own = {"estimated_at": self._estimated_at}
        return {**own, **self._schedule.get_state()}

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""
        self._estimated_at = state["estimated_at"]
        self._schedule.set_state(state)

"""How the weight of distillation grows over the epochs, counted from 1."""

import warnings

import keras

from keras_wake.utils import validate
from keras_wake.utils.configured import Configured
from keras_wake.utils.types import Array
from keras_wake.utils.types import State


class Schedule(Configured):
    """The weight of distillation in each epoch, and when the teacher freezes.

    A schedule of your own defines `__call__(t)`, the weight λ_t in epoch t,
    counted from 1. It may override `averages(t)`, and `largest_weight` where
    that is below 1. One that follows the training overrides `start()`, and
    returns an object with a state of its own for each training.

    """

    # The ramp that was found in a training, where one is looked for.
    ramp: "DistillationRamp | None" = None

    def __call__(self, t: int) -> float:
        """The weight λ_t, from 0 to 1, in epoch `t`, counted from 1."""
        raise TypeError(
            f"`{type(self).__name__}` does not define `__call__(t)`, the "
            "weight of distillation in epoch t."
        )

    def averages(self, t: int) -> bool:
        """Whether the teacher is averaged in epoch `t`; else it is frozen."""
        return True

    @property
    def largest_weight(self) -> float:
        """The largest weight that any epoch may have."""
        return 1.0

    def check_fit(self, epochs: int | None, has_validation: bool) -> None:
        """Raises or warns, at the start of `fit`, if it does not suit.

        `epochs` is the number of its last epoch, or `None` if another `fit`
        may continue this one.
        """

    def start(self) -> "Schedule":
        """The schedule of one training: itself, where it has no state."""
        return self

    def after_epoch(
        self, t: int, teacher: keras.Model, accuracy: float | None
    ) -> None:
        """Called after epoch `t`; may change the teacher.

        `accuracy` is its robust accuracy in validation, `None` without one.
        """

    def after_fit(self, t: int | None, teacher: keras.Model) -> None:
        """Called when `fit` ends; may change the teacher.

        `t` is the last epoch of this `fit`, `None` if it had none.
        """

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps of one training."""
        return {}

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""


@keras.saving.register_keras_serializable(package="keras_wake")
class DistillationRamp(Schedule):
    """Weight λ_t of the distillation term in epoch t (Algorithm 2).

    With t_s = `start_epoch` and t_e = `end_epoch`:

    - t ≤ t_s: 0
    - t_s < t < t_e: peak · (t − t_s) / (t_e − t_s)
    - t ≥ t_e: final

    The teacher's averaging ends with epoch t_e − 1. Epochs are **counted
    from 1** as in the paper; Keras counts them from 0.

    Args:
        start_epoch: t_s ≥ 0, the last epoch without distillation.
        end_epoch: t_e > t_s, the first epoch at the final weight.
        peak: What the ramp rises to. Defaults to `1.0`.
        final: The weight from `end_epoch` on. Defaults to `1.0`.

    Raises:
        ValueError: If `start_epoch` ≥ `end_epoch` or a weight is outside
            [0, 1].

    Example:

    >>> ramp = DistillationRamp(start_epoch=100, end_epoch=110)
    >>> ramp(100), ramp(101), ramp(109), ramp(110)
    (0.0, 0.1, 0.9, 1.0)
    """

    _arguments = ("start_epoch", "end_epoch", "peak", "final")

    def __init__(
        self,
        start_epoch: int,
        end_epoch: int,
        peak: float = 1.0,
        final: float = 1.0,
    ) -> None:
        self.start_epoch = validate.integer(0, start_epoch=start_epoch)
        self.end_epoch = validate.integer(1, end_epoch=end_epoch)
        if self.start_epoch >= self.end_epoch:
            raise ValueError(
                "`start_epoch` must come before `end_epoch`. Received: "
                f"start_epoch={start_epoch!r}, end_epoch={end_epoch!r}."
            )
        self.peak = validate.in_range(0, 1, peak=peak)
        self.final = validate.in_range(0, 1, final=final)

    @classmethod
    def for_epochs(cls, epochs: int, **kwargs: float) -> "DistillationRamp":
        """The default ramp of a run: t_s at half of it, t_e at 55 %.

        Args:
            epochs: Number of epochs of the run, at least 2.
            **kwargs: `peak` and `final`.

        Example:

        >>> ramp = DistillationRamp.for_epochs(200)
        >>> ramp.start_epoch, ramp.end_epoch
        (100, 110)
        """
        epochs = validate.integer(2, epochs=epochs)
        start = epochs // 2
        return cls(start, max(start + 1, round(0.55 * epochs)), **kwargs)

    def __call__(self, t: int) -> float:
        """The weight λ_t in epoch `t`, counted from 1."""
        if t <= self.start_epoch:
            return 0.0
        if t >= self.end_epoch:
            return self.final
        passed = t - self.start_epoch
        return self.peak * passed / (self.end_epoch - self.start_epoch)

    @property
    def largest_weight(self) -> float:
        """The larger one of `peak` and `final`."""
        return max(self.peak, self.final)

    def averages(self, t: int) -> bool:
        """Whether epoch `t` comes before t_e."""
        return t < self.end_epoch

    def check_fit(self, epochs: int | None, has_validation: bool) -> None:
        """Warns if `fit` ends before distillation begins."""
        if epochs is not None and epochs <= self.start_epoch:
            warnings.warn(
                f"`fit` ends with epoch {epochs}, before distillation begins: "
                f"{self!r}. Train for more than {self.start_epoch} epochs, or "
                "begin earlier: `DistillationRamp.for_epochs(n)` is made for "
                "n epochs. If another `fit` continues this one, pass "
                "`initial_epoch=0` here to silence this warning, and "
                "`initial_epoch=` there.",
                stacklevel=2,
            )


@keras.saving.register_keras_serializable(package="keras_wake")
class AdaptiveRamp(Schedule):
    """A schedule that finds t_s and t_e by itself.

    While the robust accuracy of the teacher on the validation images rises,
    the teacher is averaged and the student does not learn from it. Epoch t_s
    is the one in which that accuracy has not improved for `patience`
    evaluations in a row. Then the teacher goes back to its best epoch and is
    frozen, and λ_t rises as in
    `DistillationRamp(t_s, t_s + length, peak, final)`.

    If training ends before that, the teacher goes back to its best epoch as
    well, with a warning: the student has learned nothing from it.

    The ramp that was found is `EMATeacher.ramp`. `fit` needs validation
    images. Hold them out of the training images: test images must not choose
    the epoch.

    Args:
        patience: Evaluations without improvement, at least 1. Defaults to
            `3`.
        length: Epochs of the ramp, t_e − t_s. Defaults to `4`.
        peak: What the ramp rises to. Defaults to `1.0`.
        final: The weight from t_e on. Defaults to `1.0`.
        latest_start: t_s at the latest, improvement or not. Defaults to
            `None`: no such epoch.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> AdaptiveRamp(patience=2).from_epoch(40)
    DistillationRamp(start_epoch=40, end_epoch=44, peak=1.0, final=1.0)
    """

    _arguments = ("patience", "length", "peak", "final", "latest_start")
    largest_weight = DistillationRamp.largest_weight

    def __init__(
        self,
        patience: int = 3,
        length: int = 4,
        peak: float = 1.0,
        final: float = 1.0,
        latest_start: int | None = None,
    ) -> None:
        self.patience = validate.integer(1, patience=patience)
        self.length = validate.integer(1, length=length)
        self.peak = validate.in_range(0, 1, peak=peak)
        self.final = validate.in_range(0, 1, final=final)
        if latest_start is not None:
            latest_start = validate.integer(1, latest_start=latest_start)
        self.latest_start = latest_start

    def check_fit(self, epochs: int | None, has_validation: bool) -> None:
        """Refuses a `fit` without validation data."""
        if not has_validation:
            raise ValueError(
                "An `AdaptiveRamp` follows the teacher's robust accuracy on "
                "validation images, and `fit` has none. Pass "
                "`validation_data=`, held out of the training images."
            )

    def start(self) -> Schedule:
        """A search for t_s that has not begun."""
        return _Search(self)

    def from_epoch(self, start_epoch: int) -> DistillationRamp:
        """The ramp for a teacher that is frozen after epoch t_s."""
        return DistillationRamp(
            start_epoch, start_epoch + self.length, self.peak, self.final
        )


class _Search(Schedule):
    """Looks for t_s: the epoch in which the teacher stops getting better."""

    def __init__(self, schedule: AdaptiveRamp) -> None:
        self.schedule = schedule
        self._best = -1.0
        self._best_teacher: list[Array] = []
        self._waited = 0

    def __call__(self, t: int) -> float:
        return 0.0 if self.ramp is None else self.ramp(t)

    def averages(self, t: int) -> bool:
        return self.ramp is None

    def after_epoch(
        self, t: int, teacher: keras.Model, accuracy: float | None
    ) -> None:
        """Keeps the best teacher; the ramp may begin."""
        if self.ramp is not None:
            return
        if accuracy is not None and accuracy > self._best:
            self._best, self._waited = float(accuracy), 0
            self._best_teacher = teacher.get_weights()
        elif accuracy is not None:
            self._waited += 1
        latest = self.schedule.latest_start
        late = latest is not None and t >= latest
        if self._waited >= self.schedule.patience or late:
            self.ramp = self.schedule.from_epoch(t)
            if self._best_teacher:
                teacher.set_weights(self._best_teacher)
            self._best_teacher = []

    def after_fit(self, t: int | None, teacher: keras.Model) -> None:
        """Puts the best teacher back, with a warning, if no ramp began."""
        # A run that is restored after its last epoch trains none (t is None).
        ramp = self.ramp
        if ramp is not None and (t is None or t > ramp.start_epoch):
            return
        if self._best_teacher:
            teacher.set_weights(self._best_teacher)
        best = ", which is that of its best epoch" if self._best >= 0 else ""
        warnings.warn(
            f"`fit` has ended before distillation began: {self.schedule!r} "
            "waits until the teacher has not become better in `patience` "
            "evaluations. The student has learned nothing from the "
            f"teacher{best}. Train for more epochs, lower `patience`, or set "
            "`latest_start`.",
            stacklevel=2,
        )

    def get_state(self) -> State:
        return {
            "start_epoch": self.ramp and self.ramp.start_epoch,
            "best": self._best,
            "best_teacher": self._best_teacher,
            "waited": self._waited,
        }

    def set_state(self, state: State) -> None:
        start = state["start_epoch"]
        self.ramp = None if start is None else self.schedule.from_epoch(start)
        self._best, self._waited = state["best"], state["waited"]
        self._best_teacher = list(state["best_teacher"])

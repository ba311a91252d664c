"""How the weight of distillation grows over the epochs, counted from 1."""

from typing import Any

import keras

from keras_wake.utils import validate


@keras.saving.register_keras_serializable(package="keras_wake")
class DistillationRamp:
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
    def for_epochs(cls, epochs: int, **kwargs: Any) -> "DistillationRamp":
        """The default ramp of a run: t_s at half of it, t_e at 55 %.

        Args:
            epochs: Number of epochs of the run, at least 2.
            **kwargs: `peak` and `final`.

        Returns:
            A `DistillationRamp`.

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

    def __repr__(self) -> str:
        return (
            f"DistillationRamp(start_epoch={self.start_epoch}, "
            f"end_epoch={self.end_epoch}, peak={self.peak:g}, "
            f"final={self.final:g})"
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "start_epoch": self.start_epoch,
            "end_epoch": self.end_epoch,
            "peak": self.peak,
            "final": self.final,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DistillationRamp":
        """Makes the ramp again from `get_config()`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_wake")
class AdaptiveRamp:
    """A schedule that finds t_s and t_e by itself.

    The teacher is averaged, and not yet learned from, while its robust
    accuracy on the validation images rises. Once that has not improved in
    `patience` evaluations in a row, in epoch t_s, the teacher becomes again
    what it was in its best epoch and stays so, and λ_t rises as in
    `DistillationRamp(t_s, t_s + length, peak, final)`.

    Where training ends before that, the teacher becomes what it was in its
    best epoch as well, with a warning: the student has learned nothing from
    it.

    `EMATeacher` follows this schedule; the ramp it has found is its `ramp`.
    `fit` needs validation images, which should be held out of the training
    images: the test images would choose the epoch.

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

    ```python
    model = keras_wake.WakeModel(
        classifier, attack, schedule=keras_wake.schedules.AdaptiveRamp()
    )
    teacher = keras_wake.EMATeacher(decay=0.999)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(train, validation_data=validation, callbacks=[teacher])
    print(teacher.ramp)
    ```
    """

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

    def from_epoch(self, start_epoch: int) -> DistillationRamp:
        """The ramp for a teacher that is frozen after epoch t_s."""
        return DistillationRamp(
            start_epoch, start_epoch + self.length, self.peak, self.final
        )

    def __repr__(self) -> str:
        latest = self.latest_start
        end = "" if latest is None else f", latest_start={latest}"
        return (
            f"AdaptiveRamp(patience={self.patience}, length={self.length}, "
            f"peak={self.peak:g}, final={self.final:g}{end})"
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "patience": self.patience,
            "length": self.length,
            "peak": self.peak,
            "final": self.final,
            "latest_start": self.latest_start,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AdaptiveRamp":
        """Makes the schedule again from `get_config()`."""
        return cls(**config)

"""The teacher of WAKE: a running average of the student's weights."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import _batches
from keras_wake import _inputs
from keras_wake import _validate
from keras_wake import backend


class EMATeacher(keras.callbacks.Callback):
    """Averages the student into the model's teacher, inside the step.

    After every update of the student, until epoch t_e of the schedule begins
    (Algorithm 2; without a schedule, for ever):

        θ̄ ← α θ̄ + (1 − α) θ

    The teacher starts as a copy of the student; a second `fit` goes on with
    the average of the first. A schedule counts the epochs of `fit`, so a
    second one continues it with `initial_epoch=`. With
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

    def __init__(
        self,
        decay: float = 0.999,
        batch_norm: str = "average",
        warmup: bool = False,
        data: Any = None,
    ) -> None:
        super().__init__()
        self.decay = _validate.in_range(0, 1, decay=decay)
        if self.decay == 1:
            raise ValueError(
                "`decay` must be below 1, else the teacher never moves. "
                f"Received: decay={decay!r}."
            )
        modes = ("average", "copy", "reestimate")
        self.batch_norm = _validate.one_of(modes, batch_norm=batch_norm)
        if (batch_norm == "reestimate") != (data is not None):
            raise ValueError(
                '`data` is for `batch_norm="reestimate"`, which needs it: '
                f"pass both or neither. Received: batch_norm={batch_norm!r}, "
                f"data={'None' if data is None else type(data).__name__}."
            )
        _batches.check_reusable("EMATeacher", data)
        self.warmup = bool(warmup)
        self.data = data
        self._estimated_at: int | None = None
        self._first_epoch = True

    def set_model(self, model: Any) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        if not hasattr(model, "enable_teacher"):
            raise TypeError(
                "`EMATeacher` works with `keras_wake.WakeModel`. Received: a "
                f"model of type {type(model).__name__}."
            )
        model.enable_teacher(self)

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

    def on_train_begin(self, logs: Any = None) -> None:
        """Lets a teacher that was never averaged start as the student."""
        if self.batch_norm == "reestimate" and backend.data_shard()[1] > 1:
            raise ValueError(
                '`EMATeacher(batch_norm="reestimate")` is for one process: '
                "each of several sees other images, and their teachers would "
                'differ. Use `batch_norm="average"`.'
            )
        if int(backend.to_numpy(self.model.teacher_updates)) == 0:
            self.model.teacher.set_weights(self.model.classifier.get_weights())
        self._estimated_at = None
        self._first_epoch = True

    def _warn_of_restart(self, t: int) -> None:
        frozen = float(backend.to_numpy(self.model.teacher_averaging)) == 0
        if frozen and int(backend.to_numpy(self.model.teacher_updates)) > 0:
            warnings.warn(
                f"The schedule starts again at epoch {t}, and the teacher, "
                "which was frozen, is averaged again. To continue instead, "
                "pass `initial_epoch=` to `fit`.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets λ_t, and freezes the teacher from epoch t_e on."""
        t = epoch + 1
        schedule = self.model.schedule
        self.model.kd_weight.assign(0.0 if schedule is None else schedule(t))
        averaging = schedule is None or t < schedule.end_epoch
        if self._first_epoch and averaging and schedule is not None:
            self._warn_of_restart(t)
        self._first_epoch = False
        self.model.teacher_averaging.assign(float(averaging))

    def on_test_begin(self, logs: Any = None) -> None:
        """Brings re-estimated statistics up to date for the validation."""
        self._reestimate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Brings re-estimated statistics up to date for checkpoints."""
        self._reestimate()

    def get_state(self) -> dict[str, Any]:
        """What `BackupAndRestore` keeps; the teacher is part of the model."""
        return {"estimated_at": self._estimated_at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` has returned."""
        self._estimated_at = state["estimated_at"]

    def _reestimate(self) -> None:
        updates = int(backend.to_numpy(self.model.teacher_updates))
        if self.batch_norm == "reestimate" and updates != self._estimated_at:
            reestimate_batch_norm(self.model.teacher, self.data)
            self._estimated_at = updates


def reestimate_batch_norm(network: Any, data: Any) -> None:
    """Sets batch-norm statistics to their mean over one pass over `data`.

    As stochastic weight averaging does it (Izmailov et al. 2018): each batch
    counts by its size.

    Args:
        network: `keras.Model`; one without batch norm is left as it is.
        data: Pair of arrays, or anything that yields (images, labels).

    Raises:
        ValueError: If `data` is empty.
    """
    layers = [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return
    statistics = [v for n in layers for v in (n.moving_mean, n.moving_variance)]
    sums = [np.zeros(v.shape, "float64") for v in statistics]
    momenta = [layer.momentum for layer in layers]
    images = 0
    try:
        for layer in layers:
            # With momentum 0 the statistics after a call are the batch's own.
            layer.momentum = 0.0
        for x, _ in _batches.batches(data):
            x = _inputs.check_images(ops.convert_to_tensor(x))
            network(x, training=True)
            images += x.shape[0]
            for total, variable in zip(sums, statistics, strict=True):
                total += x.shape[0] * backend.to_numpy(variable)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    for total, variable in zip(sums, statistics, strict=True):
        variable.assign(total / images)

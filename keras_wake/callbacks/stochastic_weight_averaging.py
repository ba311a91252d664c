"""Stochastic weight averaging: the mean of the student, epoch by epoch."""

import warnings

from keras import ops

from keras_wake import backend
from keras_wake.callbacks._base import assign
from keras_wake.callbacks._base import TeacherAverage
from keras_wake.models.batch_norm import batch_norm_layers
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Logs
from keras_wake.utils.types import State


class StochasticWeightAveraging(TeacherAverage):
    """Averages the student at the end of epochs into the model's teacher.

    Stochastic weight averaging (Izmailov et al. 2018), as KDSWA uses it
    against robust overfitting (Chen et al. 2021): at the end of each epoch
    t ≥ `start_epoch`, with n epochs averaged before,

        θ̄ ← θ̄ + (θ − θ̄) / (n + 1)

    and batch-norm statistics of θ̄ are re-estimated by a pass over `data`.
    From then on the average is the model's `robust_classifier`, and the logs
    have `val_teacher_accuracy` and `val_teacher_robust_accuracy`. The student
    does not learn from it: see `PretrainedTeacher` and `EMATeacher`.

    Args:
        start_epoch: First epoch that takes part, counted from 1. Chen et al.
            begin at 55 of 200.
        data: Training images for the batch-norm statistics, as for
            `EMATeacher`. Defaults to `None`, for networks without batch norm.

    Raises:
        ValueError: If `start_epoch` is below 1; in `fit`, if the network has
            batch norm and `data` is missing.

    Example:

    ```python
    average = kw.StochasticWeightAveraging(
        start_epoch=55, data=splits.arrays("train")
    )
    model.fit(splits.train, epochs=200, callbacks=[average])
    model.robust_classifier.save("robust.keras")
    ```
    """

    def __init__(self, start_epoch: int, data: Dataset = None) -> None:
        super().__init__(data)
        self.start_epoch = validate.integer(1, start_epoch=start_epoch)
        self._epoch = 0
        self._averaged = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Checks that the batch-norm statistics can be estimated."""
        super().on_train_begin(logs)
        self._epoch = self._averaged = 0
        if self.data is None and batch_norm_layers(self.model.classifier):
            raise ValueError(
                "`StochasticWeightAveraging` needs training images for the "
                "batch-norm statistics of the average. Pass `data=(x, y)`."
            )
        session = self.model.session
        if (
            not session.initial_epoch_given
            and session.epochs < self.start_epoch
        ):
            warnings.warn(
                f"`fit` ends with epoch {session.epochs}, before averaging "
                f"begins in epoch {self.start_epoch}: the student stays the "
                "`robust_classifier`. Train for more epochs, or begin "
                "earlier. If another `fit` continues this one, pass "
                "`initial_epoch=` to both: 0 here silences this warning.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch + 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds the epoch to the average, if validation has not done so."""
        self.bring_up_to_date()

    def bring_up_to_date(self) -> None:
        """Adds the epoch to the average, once."""
        if self._epoch < self.start_epoch or self._epoch == self._averaged:
            return
        model = self.model
        model.sync_variables()
        n = int(backend.to_numpy(model.teacher_updates))
        for mean, value in self.averaged_pairs:
            mean_now = ops.convert_to_tensor(mean)
            student = ops.convert_to_tensor(value)
            assign(mean, mean_now + (student - mean_now) / (n + 1))
        model.teacher_updates.assign(n + 1)
        self._averaged = self._epoch
        super().bring_up_to_date()

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps; the average is part of the model."""
        return {
            "averaged": self._averaged,
            "estimated_at": self._estimated_at,
        }

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""
        self._averaged = state["averaged"]
        self._estimated_at = state["estimated_at"]

"""Base of the callbacks that average the student into the teacher."""

import keras

from keras_wake import backend
from keras_wake.data.batches import check_ends
from keras_wake.data.batches import check_reusable
from keras_wake.models.batch_norm import reestimate_batch_norm
from keras_wake.training import averaging
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor
from keras_wake.wake_model import WakeModel


class TeacherAverage(keras.callbacks.Callback):
    """Base of the callbacks that make the teacher of a `WakeModel`."""

    # Whether each step calls `average`, so that the student can learn from the
    # teacher from the first step on.
    distils = False

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        check_reusable(type(self).__name__, data)
        check_ends(data)
        self.data = data
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self._estimated_at: int | None = None

    def set_model(self, model: keras.Model) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                f"`{type(self).__name__}` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}."
            )
        model.enable_teacher(self)
        self.buffers = averaging.float_buffers(model.classifier, model.teacher)

    def _forget_estimate(self) -> None:
        """Starts a new `fit`; refuses `data` if there are several workers."""
        if self.data is not None and backend.data_shard()[1] > 1:
            raise ValueError(
                f"`{type(self).__name__}(data=)` is for one process: each of "
                "several sees other images, and their teachers would differ. "
                'Use `EMATeacher(batch_norm="average")`.'
            )
        self._estimated_at = None

    def bring_up_to_date(self) -> None:
        """Re-estimates batch norm if the weights of the teacher have changed.

        Called before each validation of the teacher and after each epoch.
        """
        updates = int(backend.to_numpy(self.model.teacher_updates))
        if self.data is None or updates in (0, self._estimated_at):
            return
        attack = self.model.attack or self.model.eval_attack
        reestimate_batch_norm(self.model.teacher, self.data, attack.bounds)
        self._estimated_at = updates

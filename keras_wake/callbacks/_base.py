"""What several callbacks have in common."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.checkpoint import files
from keras_wake.data.batches import check_ends
from keras_wake.data.batches import check_reusable
from keras_wake.data.batches import iterate_batches
from keras_wake.data.sharding import data_of_all
from keras_wake.models.batch_norm import reestimate_batch_norm
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Logs
from keras_wake.utils.types import Tensor
from keras_wake.wake_model import WakeModel


class WakeCallback(keras.callbacks.Callback):
    """Base of the callbacks that work with a `WakeModel`."""

    def set_model(self, model: keras.Model) -> None:
        """Refuses other models."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                f"`{type(self).__name__}` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. Pass the "
                "model to `WakeModel(classifier, attack)`."
            )


class ReportingCallback(WakeCallback):
    """Base of the callbacks that measure, and write into a folder."""

    def __init__(
        self,
        data: Dataset | None,
        every: int,
        path: str | os.PathLike | None,
        class_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        check_reusable(type(self).__name__, data)
        self.data = data
        self.every = validate.integer(1, every=every)
        if path is not None:
            files.check_folder(path)
        self.path = path
        if class_names is not None:
            class_names = validate.list_of_names(class_names)
        self.class_names = class_names

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Refuses what would fail when the first report is written."""
        validate.names_of_classes(self.class_names, self.model.num_classes)
        if self.path is not None and self.model.is_chief:
            files.make_folder(self.path)


class TeacherAverage(WakeCallback):
    """Base of the callbacks that average the student into the teacher."""

    # Whether each step calls `average`, so that the student can learn from the
    # teacher from the first step on.
    distils = False

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        check_reusable(type(self).__name__, data)
        check_ends(data)
        self.data = data
        self.averaged_pairs: list[tuple[Any, Any]] = []
        self._all_data: Dataset | None = None
        self._estimated_at: int | None = None

    def set_model(self, model: keras.Model) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        model.enable_teacher(self)
        self.averaged_pairs = _float_pairs(model.classifier, model.teacher)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Refuses `data` of which several processes see other images."""
        self._estimated_at = None
        self._all_data = None
        if self.data is not None:
            owner = f"{type(self).__name__}(data=)"
            self._all_data = data_of_all(self.model, self.data, owner)

    def bring_up_to_date(self) -> None:
        """Re-estimates batch norm if the weights of the teacher have changed.

        Called before each validation of the teacher and after each epoch.
        """
        updates = int(backend.to_numpy(self.model.teacher_updates))
        if self.data is None or updates in (0, self._estimated_at):
            return
        attack = self.model.attack or self.model.eval_attack
        reestimate_batch_norm(self.model.teacher, self._all_data, attack.bounds)
        # Dropout before a batch norm draws other numbers in each process.
        self.model.start_pass()
        self._estimated_at = updates


def _float_pairs(
    student: keras.Model, teacher: keras.Model
) -> list[tuple[Any, Any]]:
    """Pairs (of the teacher, of the student) of what is averaged.

    Floating-point variables, and such buffers of PyTorch modules.
    """
    own, copied = (
        [*network.variables, *backend.buffers(network)]
        for network in (student, teacher)
    )
    return [
        (of_teacher, of_student)
        for of_teacher, of_student in zip(copied, own, strict=True)
        if keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(of_teacher.dtype)
        )
    ]


def assign(target: Any, value: Tensor) -> None:
    """Sets a variable, or a buffer of a PyTorch module."""
    if isinstance(target, keras.Variable):
        target.assign(value)
    else:
        target.copy_(value)


def first_images(data: Dataset, count: int) -> tuple[Array, Array]:
    """The first images and labels of data, as arrays."""
    images: list[Array] = []
    labels: list[Array] = []
    for x, y in iterate_batches(data, count):
        images.append(ops.convert_to_numpy(x))
        labels.append(ops.convert_to_numpy(y))
        if sum(map(len, images)) >= count:
            break
    return np.concatenate(images)[:count], np.concatenate(labels)[:count]


@contextlib.contextmanager
def error_as_warning(what: str) -> Iterator[None]:
    """Turns an error into a warning of what has failed; training goes on."""
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"{what}: {error!r}. Training goes on.",
            # Of this function, its `with` and what holds the `with`.
            stacklevel=4,
        )

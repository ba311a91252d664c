"""The attribution matrix and CAS, epoch by epoch, during training."""

import os
import pathlib
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from keras_wake import attribution
from keras_wake.attacks import Attack
from keras_wake.attribution.correlation import quiet_cas
from keras_wake.attribution.correlation import quiet_cosine_matrix
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import find_head
from keras_wake.callbacks.backup_and_restore import BackupAndRestore
from keras_wake.checkpoint import files
from keras_wake.checkpoint.matrices import Measurement
from keras_wake.checkpoint.matrices import StoredMatrix
from keras_wake.data.batches import check_ends
from keras_wake.data.batches import check_reusable
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Config
from keras_wake.utils.types import Dataset
from keras_wake.wake_model import WakeModel

# With more, the matrices of 200 epochs take more than 200 MB.
MOST_CLASSES_IN_MEMORY = 500
_FOLDER = "matrices"


class CrossClassAttribution(keras.callbacks.Callback):
    """Follows the cross-class attribution matrix and CAS (Algorithm 1).

    Without `data` it uses the validation pass: the matrix is computed from
    the adversarial images of `evaluate`, at the cost of one product of
    matrices a batch, and `val_cas` (with a teacher also `val_teacher_cas`) is
    in the logs for every callback. With `data` it makes its own pass at the
    end of an epoch and adds the same keys to the logs; callbacks that read
    them must come after it.

    After each measurement `correlation` is the student's matrix, a NumPy
    array (K, K), `cas` its score, `teacher_correlation` the teacher's matrix,
    and `history` a list of mappings with `epoch` (counted from 1),
    `correlation`, `cas` and, with a teacher, `teacher_correlation` and
    `teacher_cas`. The matrices in it are float32. With `path`, or with
    `BackupAndRestore` among the callbacks, each is written once to a `.npy`
    file, in the folder `matrices` of `path` or else of the backup, and read
    on access; without either, those of all epochs stay in memory.

    Args:
        data: Pair of arrays or anything that yields (x, y) batches. Defaults
            to `None`: the validation pass.
        attack: Attack for `data`. Defaults to `None`: the model's
            `eval_attack`.
        every: Measure `data`, and draw, every so many epochs. Defaults to
            `1`.
        path: Folder for a PNG of each matrix,
            `correlation_epoch_0001.png`, and for the matrices themselves.
            Defaults to `None`: no figures. A figure or file that fails is a
            warning, never the end of a run.
        class_names: Names of the classes for the figures.
        head: Name of the Dense layer for `data`. Defaults to `None`: the
            head of the `WakeModel`. (For the validation pass it is an
            argument of `WakeModel`.)

    Raises:
        TypeError: If `path` is no path, or `class_names` are in no order.
        ValueError: If `path` names a file. In `fit`, if there is neither
            `data` nor a validation pass, if the head is not found, if the
            folder cannot be written to, or if there are not as many
            `class_names` as classes.

    Example:

    ```python
    attribution = keras_wake.callbacks.CrossClassAttribution()
    model.fit(train, validation_data=validation, callbacks=[attribution])
    print(attribution.cas, attribution.correlation.shape)
    ```
    """

    def __init__(
        self,
        data: Dataset | None = None,
        attack: Attack | None = None,
        every: int = 1,
        path: str | os.PathLike | None = None,
        class_names: list[str] | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        if data is None and (attack is not None or head is not None):
            raise ValueError(
                "`attack` and `head` are for `data`; the validation pass uses "
                "the `eval_attack` and the `head` of the model. Received: "
                f"attack={attack!r}, head={head!r} without data."
            )
        check_reusable("CrossClassAttribution", data)
        check_ends(data)
        self.data = data
        self.attack = attack
        self.every = validate.integer(1, every=every)
        self.path = path
        if path is not None:
            files.check_folder(path)
        if class_names is not None:
            class_names = validate.list_of_names(class_names)
        self.class_names = class_names
        self.head = head
        self._forget()

    def _forget(self) -> None:
        self.history: list[Mapping] = []
        self.correlation: Array | None = None
        self.teacher_correlation: Array | None = None
        self.cas: float | None = None
        self.teacher_cas: float | None = None
        self._epoch = 0
        self._measured = False
        self._missing = 0

    def set_model(self, model: WakeModel) -> None:
        """Switches on the accumulation, before the step is compiled."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                "`CrossClassAttribution` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. For any "
                "other model, call "
                "`keras_wake.attribution.correlation_matrix`."
            )
        validate.names_of_classes(self.class_names, model.num_classes)
        if self.data is None:
            model.enable_attribution()
            return
        network = model.classifier
        self._head = model.head
        if self.head is not None or self._head is None:
            self._head = find_head(network, self.head, model.num_classes)
        self._teacher_head = counterpart(self._head, network, model.teacher)

    def on_train_begin(self, logs: Config | None = None) -> None:
        """Starts a new history."""
        self._forget()
        if self.data is None and not self.model.session.has_validation:
            raise ValueError(
                "`CrossClassAttribution()` measures the validation pass, and "
                "`fit` has none. Pass `validation_data=` to `fit`, or "
                "`CrossClassAttribution(data=(x, y))`."
            )
        if self.path is not None and self.model.is_chief:
            files.make_folder(self.path)
        classes = self.model.num_classes
        if self._folder() is None and classes > MOST_CLASSES_IN_MEMORY:
            warnings.warn(
                f"The matrix of {classes} classes takes "
                f"{4 * classes**2 / 1e6:.0f} MB, and those of all epochs stay "
                "in memory. Pass `CrossClassAttribution(path=)`, a folder for "
                "them, or add `keras_wake.BackupAndRestore`.",
                stacklevel=2,
            )

    def _folder(self) -> pathlib.Path | None:
        """Where matrices are written, if there is such a place."""
        if self.path is not None:
            return pathlib.Path(self.path) / _FOLDER
        session = self.model.session
        callbacks = session.callbacks if session is not None else ()
        for backup in callbacks:
            if isinstance(backup, BackupAndRestore):
                break
        else:
            return None
        sharing = [
            callback
            for callback in callbacks
            if isinstance(callback, CrossClassAttribution)
            and callback.path is None
        ]
        number = 1 + [c is self for c in sharing].index(True)
        name = _FOLDER if number == 1 else f"{_FOLDER}_{number}"
        return backup.backup_dir / name

    def on_epoch_begin(self, epoch: int, logs: Config | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch + 1
        self._measured = False

    def on_test_end(self, logs: Config | None = None) -> None:
        """Reads the matrix that the pass has accumulated."""
        if self.data is None:
            model = self.model
            teacher = model.teacher_in_use
            self._record(
                model.attribution.matrix(),
                model.teacher_attribution.matrix() if teacher else None,
            )

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        """Measures `data`, and draws."""
        due = self._epoch % self.every == 0
        if self.data is not None and due:
            model, teacher = self.model, None
            student = self._matrix_of(model.classifier, self._head)
            if model.teacher_in_use:
                teacher = self._matrix_of(model.teacher, self._teacher_head)
            self._record(student, teacher)
            if logs is not None:
                logs["val_cas"] = self.cas
                if teacher is not None:
                    logs["val_teacher_cas"] = self.teacher_cas
        if due and self._measured and self.model.is_chief:
            self._draw()

    def get_state(self) -> Config:
        """What `BackupAndRestore` keeps."""
        history = [
            entry.to_state() if isinstance(entry, Measurement) else entry
            for entry in self.history
        ]
        return {"history": history, "missing": self._missing}

    def set_state(self, state: Config) -> None:
        """Goes on from what `get_state` has returned."""
        folder = self._folder()
        self.history = [
            Measurement.from_state(values, folder)
            for values in state["history"]
        ]
        self._missing = state["missing"]
        last: Mapping = self.history[-1] if self.history else {}
        self.cas = last.get("cas")
        self.teacher_cas = last.get("teacher_cas")
        try:
            self.correlation = last.get("correlation")
            self.teacher_correlation = last.get("teacher_correlation")
        except (OSError, ValueError) as error:
            warnings.warn(
                f"{error} Training goes on; `correlation` is None until the "
                "next measurement.",
                stacklevel=2,
            )

    def _store_matrices(self, values: Config) -> Mapping:
        """Returns an entry of the history, with its matrices in files."""
        # Outside of `fit`, epochs have no number.
        folder = self._folder() if self.model.session is not None else None
        for key, value in values.items():
            if isinstance(value, np.ndarray):
                values[key] = value.astype("float32")
                if folder is not None:
                    path = folder / f"{key}_epoch_{values['epoch']:04d}.npy"
                    values[key] = self._stored(path, values[key])
        return values if folder is None else Measurement(values)

    def _stored(
        self, path: pathlib.Path, matrix: Array
    ) -> StoredMatrix | Array:
        if not self.model.is_chief:
            return StoredMatrix(path)
        try:
            return StoredMatrix.write(path, matrix)
        except OSError as error:
            warnings.warn(
                f"The matrix {path} could not be written: {error}. It stays "
                "in memory. Training goes on.",
                stacklevel=2,
            )
            return matrix

    def _matrix_of(
        self, network: keras.Model, head: keras.layers.Dense | None
    ) -> Array:
        attack = self.attack or self.model.eval_attack
        # `_record` warns, once.
        matrix = quiet_cosine_matrix(
            attribution.attribution_vectors(network, self.data, attack, head)
        )
        # The chief's, as batch norm may differ between processes, and
        # callbacks that read the logs have to decide alike.
        return self.model.of_all_processes(matrix)[0]

    def _record(self, student: Array, teacher: Array | None) -> None:
        missing = int(np.isnan(np.diagonal(student)).sum())
        if missing and missing != self._missing:
            warnings.warn(
                f"{missing} of {len(student)} classes have no samples or a "
                "zero attribution vector: their entries of the correlation "
                "matrix are NaN and left out of CAS.",
                stacklevel=2,
            )
        self._missing = missing
        self.correlation = student
        self.cas, _ = quiet_cas(student)
        entry = {
            "epoch": self._epoch,
            "correlation": student,
            "cas": self.cas,
        }
        if teacher is not None:
            self.teacher_correlation = teacher
            self.teacher_cas, _ = quiet_cas(teacher)
            entry["teacher_correlation"] = teacher
            entry["teacher_cas"] = self.teacher_cas
        self.history.append(self._store_matrices(entry))
        self._measured = True

    def _draw(self) -> None:
        if self.path is None:
            return
        name = f"correlation_epoch_{self._epoch:04d}.png"
        try:
            # Matplotlib is optional.
            from keras_wake import visualization

            visualization.plot_correlation_matrix(
                self.correlation,
                class_names=self.class_names,
                title=f"Epoch {self._epoch}, CAS {self.cas:.1f}",
                path=pathlib.Path(self.path) / name,
            )
        except Exception as error:
            warnings.warn(
                f"The figure {name} could not be drawn: {error!r}. Training "
                "goes on.",
                stacklevel=2,
            )

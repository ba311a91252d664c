"""The attribution matrix and CAS, epoch by epoch, during training."""

import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_wake import attribution
from keras_wake import visualization
from keras_wake.attacks import Attack
from keras_wake.attribution.correlation import quiet_cas
from keras_wake.attribution.correlation import quiet_cosine_matrix
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import find_head
from keras_wake.callbacks._base import error_as_warning
from keras_wake.callbacks._base import ReportingCallback
from keras_wake.callbacks.backup_and_restore import BackupAndRestore
from keras_wake.checkpoint.matrices import Measurement
from keras_wake.checkpoint.matrices import StoredMatrix
from keras_wake.data.batches import check_ends
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Logs
from keras_wake.utils.types import State

# With more, the matrices of 200 epochs take more than 200 MB.
MOST_CLASSES_IN_MEMORY = 500
_FOLDER = "matrices"


class CrossClassAttribution(ReportingCallback):
    """Follows the cross-class attribution matrix and CAS (Algorithm 1).

    Without `data` it uses the validation pass: the matrix is computed from
    the adversarial images of `evaluate`, at the cost of one product of
    matrices a batch, and `val_cas` (with a teacher also `val_teacher_cas`) is
    in the logs for every callback. With `data` it makes its own pass at the
    end of an epoch, and only callbacks that come after it find the same keys.

    After each measurement `correlation` is the student's matrix (K, K), `cas`
    its score, and with a teacher `teacher_correlation` and `teacher_cas` are
    the teacher's. `history` is a list of mappings with `epoch` (counted from
    1) and these, the matrices in float32. With `path`, or with
    `BackupAndRestore` among the callbacks, each matrix is written once to a
    `.npy` file, in the folder `matrices` of `path` or else of the backup, and
    read on access; otherwise those of all epochs stay in memory.

    Args:
        data: Pair of arrays (x, y), or anything that yields such batches.
            Defaults to `None`: the validation pass.
        attack: Attack for `data`. Defaults to `None`: `eval_attack`.
        every: Measure `data`, and draw, every so many epochs. Defaults to `1`.
        path: Folder for the matrices, and for a figure of each,
            `correlation_epoch_0001.png`. Defaults to `None`: no figures. A
            file that cannot be written is a warning, never the end of a run.
        class_names: Names of the classes for the figures.
        head: Name of the Dense layer for `data`. Defaults to `None`: that of
            the `WakeModel`.

    Raises:
        TypeError: If `path` is no path, or `class_names` are in no order.
        ValueError: If `path` is no folder that can be written to; in `fit`,
            if there is neither `data` nor a validation pass, if the head is
            not found, or if there are not as many `class_names` as classes.

    Example:

    ```python
    attribution = kw.callbacks.CrossClassAttribution()
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
        super().__init__(data, every, path, class_names)
        if data is None and (attack is not None or head is not None):
            raise ValueError(
                "`attack` and `head` are for `data`; the validation pass uses "
                "the `eval_attack` and the `head` of the model. Received: "
                f"attack={attack!r}, head={head!r} without data."
            )
        check_ends(data)
        self.attack = attack
        self.head = head
        self._forget()

    def _forget(self) -> None:
        self.history: list[Mapping] = []
        self._show({})
        self._epoch = 0
        self._missing = 0

    def _show(self, entry: Mapping[str, Any]) -> None:
        """Sets the attributes of the newest measurement."""
        # A matrix that cannot be read is an error. So the scores come first.
        self.cas: float | None = entry.get("cas")
        self.teacher_cas: float | None = entry.get("teacher_cas")
        self.correlation: Array | None = entry.get("correlation")
        self.teacher_correlation: Array | None = entry.get(
            "teacher_correlation"
        )

    def set_model(self, model: keras.Model) -> None:
        """Switches on the accumulation, before the step is compiled."""
        super().set_model(model)
        if self.data is None:
            model.enable_attribution()
            return
        student, head = model.classifier, self.head or model.head
        self._head = find_head(student, head, model.num_classes)
        self._teacher_head = counterpart(self._head, student, model.teacher)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts a new history."""
        super().on_train_begin(logs)
        self._forget()
        if self.data is None and not self.model.session.has_validation:
            raise ValueError(
                "`CrossClassAttribution()` measures the validation pass, and "
                "`fit` has none. Pass `validation_data=` to `fit`, or "
                "`CrossClassAttribution(data=(x, y))`."
            )
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
        if self.model.session is None:
            return None  # Outside of `fit`, epochs have no number.
        if self.path is not None:
            return pathlib.Path(self.path) / _FOLDER
        callbacks = self.model.session.callbacks
        backups = [c for c in callbacks if isinstance(c, BackupAndRestore)]
        if not backups:
            return None
        alike = [c for c in callbacks if isinstance(c, CrossClassAttribution)]
        number = 1 + [c for c in alike if c.path is None].index(self)
        name = _FOLDER if number == 1 else f"{_FOLDER}_{number}"
        return backups[0].backup_dir / name

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch + 1

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Reads the matrix that the pass has accumulated."""
        if self.data is None:
            model, teacher = self.model, None
            if model.teacher_in_use:
                teacher = model.teacher_attribution.matrix()
            self._record(model.attribution.matrix(), teacher)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Measures `data`, and draws."""
        due = self._epoch % self.every == 0
        if self.data is not None and due:
            model, teacher = self.model, None
            student = self._matrix_of(model.classifier, self._head)
            if model.teacher_in_use:
                teacher = self._matrix_of(model.teacher, self._teacher_head)
            self._record(student, teacher)
            for name in ("cas", "teacher_cas"):
                if logs is not None and name in self.history[-1]:
                    logs[f"val_{name}"] = self.history[-1][name]
        measured = self.history and self.history[-1]["epoch"] == self._epoch
        if due and measured and self.path and self.model.is_chief:
            name = f"correlation_epoch_{self._epoch:04d}.png"
            with error_as_warning(f"The figure {name} could not be drawn"):
                visualization.plot_correlation_matrix(
                    self.correlation,
                    class_names=self.class_names,
                    title=f"Epoch {self._epoch}, CAS {self.cas:.1f}",
                    path=pathlib.Path(self.path) / name,
                )

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps."""
        history = [
            entry.to_state() if isinstance(entry, Measurement) else entry
            for entry in self.history
        ]
        return {"history": history, "missing": self._missing}

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""
        folder = self._folder()
        self.history = [
            Measurement.from_state(values, folder)
            for values in state["history"]
        ]
        self._missing = state["missing"]
        if self.history:
            with error_as_warning("`correlation` is not known yet"):
                self._show(self.history[-1])

    def _store_matrices(self, values: dict[str, Any]) -> Mapping[str, Any]:
        """Returns an entry of the history, with its matrices in files."""
        folder = self._folder()
        for key in [key for key in values if key.endswith("correlation")]:
            values[key] = matrix = values[key].astype("float32")
            if folder is not None:
                path = folder / f"{key}_epoch_{self._epoch:04d}.npy"
                failure = "could not be written, and stays in memory"
                with error_as_warning(f"The matrix {path} {failure}"):
                    values[key] = (
                        StoredMatrix.write(path, matrix)
                        if self.model.is_chief
                        else StoredMatrix(path)
                    )
        return values if folder is None else Measurement(values)

    def _matrix_of(
        self, network: keras.Model, head: keras.layers.Dense | None
    ) -> Array:
        attack = self.attack or self.model.eval_attack
        # Without warnings: `_record` warns, once.
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
        entry: dict[str, Any] = {"epoch": self._epoch}
        for prefix, matrix in (("", student), ("teacher_", teacher)):
            if matrix is not None:
                entry[f"{prefix}correlation"] = matrix
                entry[f"{prefix}cas"], _ = quiet_cas(matrix)
        self._show(entry)
        self.history.append(self._store_matrices(entry))

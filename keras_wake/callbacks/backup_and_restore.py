"""A run that is killed goes on where its last complete epoch ended."""

import contextlib
import os
import pathlib
import sys
import warnings
from typing import Any

import keras

from keras_wake import _backup_file
from keras_wake import _snapshot
from keras_wake import backend
from keras_wake.callbacks import _callback_state

_FILE = "backup.npz"


class BackupAndRestore(keras.callbacks.Callback):
    """Keeps the state of training after every epoch, and goes on from it.

    In place of `keras.callbacks.BackupAndRestore`, for
    `keras_wake.WakeModel`. When `fit` is called again, in a new process or in
    the same one, it continues after the last complete epoch as if there had
    been no break. A backup holds

    - student, teacher and optimizer, the number of updates, the random states
      of attack, dropout and augmentation (of `keras_wake.datasets.load`);
    - the history that `fit` returns, so that it is the whole run's;
    - the other callbacks: `CrossClassAttribution`, `AutoAttackEvaluation`,
      `CatastrophicOverfitMonitor`, `EMATeacher`, and of Keras
      `ModelCheckpoint`, `EarlyStopping`, `ReduceLROnPlateau`, `TensorBoard`
      and `CSVLogger`, whose file gets the rows of the complete epochs. A
      callback of your own takes part if it has `get_state()`, which returns
      dictionaries, lists, numbers, texts and arrays, and `set_state(state)`,
      called when training has begun; so do training data with these two.

    It is one file, `backup.npz`, written under another name and then moved
    into place: a kill at any moment leaves this backup or the one before. If
    it cannot be written (a full disk, say), that is a warning, the backup
    before stays, and the next epoch tries again. With several workers the
    chief writes and all read, so they need a folder in common.

    Not kept: the global generators of Python, NumPy and TensorFlow, with
    which Keras shuffles arrays (`fit(shuffle=True)`); the position within an
    epoch, and within the data where `steps_per_epoch` ends an epoch before
    they do; the model and the callbacks themselves, which the script makes
    again.

    Args:
        backup_dir: Folder of the backup, for this run alone.
        delete_checkpoint: Whether the backup is deleted when `fit` has ended
            as planned. Defaults to `True`. With `False`, `fit` with more
            epochs continues a finished run.

    Raises:
        ValueError: If `backup_dir` is empty; in `fit`, if the backup is that
            of another model, or damaged, or not that of the other workers.
        TypeError: In `fit`, if a callback's state cannot be stored.

    Example:

    ```python
    model.fit(
        train,
        validation_data=validation,
        epochs=200,
        callbacks=[
            keras_wake.EMATeacher(decay=0.999),
            keras_wake.BackupAndRestore("runs/1/backup"),
        ],
    )
    ```
    """

    def __init__(
        self, backup_dir: str | os.PathLike, delete_checkpoint: bool = True
    ) -> None:
        super().__init__()
        if not os.fspath(backup_dir):
            raise ValueError(
                "`backup_dir` must name a folder. Received: "
                f"backup_dir={backup_dir!r}."
            )
        self.backup_dir = pathlib.Path(backup_dir)
        self.delete_checkpoint = bool(delete_checkpoint)
        self._path = self.backup_dir / _FILE
        self._written = 0

    def set_model(self, model: Any) -> None:
        """Checks that the model is one whose state is known."""
        super().set_model(model)
        if not hasattr(model, "fit_callbacks"):
            raise TypeError(
                "`BackupAndRestore` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. For any "
                "other model there is `keras.callbacks.BackupAndRestore`."
            )

    def restore(self, model: Any) -> int:
        """Loads student, teacher and optimizer from the backup, outside `fit`.

        Args:
            model: Compiled `WakeModel`, made as the one that was trained.

        Returns:
            After how many epochs the backup was made; 0 if there is none,
            and the model stays as it is.

        Raises:
            ValueError: If the backup is that of another model, or damaged.
        """
        state = self._load(model)
        return 0 if state is None else state["epoch"]

    # `WakeModel.fit` has this callback come after all others, `History`
    # among them. So they have begun when it restores their states, and an
    # epoch has ended for them when it reads these.

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the state of an earlier run, if there is one."""
        self._written = 0
        state = self._load(self.model)
        if state is None:
            return
        self._written = state["epoch"]
        self._warn_of_other_settings(state.get("settings", {}))
        self._restore_callbacks(state["callbacks"])
        data = _training_data(self.model)
        if data is not None and state["data"] is not None:
            data.set_state(state["data"])
        if state.get("random") is not None:
            backend.set_random_state(state["random"])
        self.model._initial_epoch = state["epoch"]
        if self.model.stop_training:
            # Killed after its last epoch and before the end of `fit`.
            warnings.warn(
                f"The run of the backup {self._path} was stopped by one of "
                f"its callbacks after epoch {state['epoch']}: nothing is left "
                "to train. Delete the backup to start from the beginning.",
                stacklevel=2,
            )
            self.model._initial_epoch = sys.maxsize

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the backup of this epoch in place of that of the last."""
        data = _training_data(self.model)
        state = {
            "epoch": epoch + 1,
            "callbacks": [
                [type(callback).__name__, _callback_state.state_of(callback)]
                for callback in self._others()
            ],
            "data": None if data is None else data.get_state(),
            "random": backend.random_state(),
            "settings": _settings(self.model),
        }
        # By all workers, which may have to exchange what they hold.
        values = _snapshot.take(self.model)
        if not self.model.is_chief:
            return
        try:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            _backup_file.write(self._path, state, values)
        except OSError as error:
            warnings.warn(
                f"The backup of epoch {epoch + 1} could not be written to "
                f"{self._path}: {error}. "
                f"{self._kept()} Training goes on, and the next epoch tries "
                "again.",
                stacklevel=2,
            )
        else:
            self._written = epoch + 1

    def _kept(self) -> str:
        if self._written:
            return f"The backup of epoch {self._written} stays."
        return "There is none of an epoch before."

    def on_train_end(self, logs: Any = None) -> None:
        """Deletes the backup of a run that has ended as planned."""
        if self.delete_checkpoint and self.model.is_chief:
            with contextlib.suppress(OSError):
                self._path.unlink()
                # Only if nobody else has put something there.
                self.backup_dir.rmdir()

    def _load(self, model: Any) -> dict[str, Any] | None:
        """Restores the model; returns the rest of the backup, if any."""
        state: dict[str, Any] | None = None
        values: list[Any] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            state, values = _backup_file.read(self._path)
        found = model.of_all_processes(state["epoch"] if state else 0)
        epochs = [int(epoch) for epoch in found]
        if len(set(epochs)) > 1:
            raise ValueError(
                "All workers must continue from the same backup. Received: "
                f"backups after the epochs {epochs}, one for each replica. "
                f"Make `backup_dir` ({self.backup_dir}) a folder that they "
                "share, or copy the chief's to all of them."
            )
        if state is None:
            return None
        try:
            _snapshot.put_back(model, values)
        except ValueError as error:
            raise ValueError(
                f"The backup {self._path} does not fit. {error} Choose another "
                "`backup_dir`, or delete the backup to start from the "
                "beginning."
            ) from error
        return state

    def _warn_of_other_settings(self, before: dict[str, str]) -> None:
        now = _settings(self.model)
        differing = [
            f"{name}: {before[name]} there, {value} here"
            for name, value in now.items()
            if before.get(name, value) != value
        ]
        if differing:
            warnings.warn(
                f"The backup {self._path} was made with other settings, and "
                "training goes on with those of this model. Differing: "
                f"{'; '.join(differing)}. Choose another `backup_dir` for "
                "another run.",
                stacklevel=2,
            )

    def _others(self) -> list[Any]:
        """The callbacks of this `fit` but those that back up."""
        return [
            callback
            for callback in self.model.fit_callbacks
            if not isinstance(callback, BackupAndRestore)
        ]

    def _restore_callbacks(self, states: list[list[Any]]) -> None:
        """Hands each callback its state: the n-th of a class the n-th."""
        known: dict[str, list[Any]] = {}
        for name, state in states:
            known.setdefault(name, []).append(state)
        for callback in self._others():
            name = type(callback).__name__
            if known.get(name):
                state = known[name].pop(0)
                if state is not None:
                    _callback_state.set_state(callback, state)
            elif _callback_state.state_of(callback) is not None:
                warnings.warn(
                    f"The backup {self._path} knows no {name}, which was not "
                    "there when it was made: it starts anew.",
                    stacklevel=2,
                )


def backups_last(callbacks: list[Any]) -> list[Any]:
    """Callbacks with `History` and the backups, if there are any, at the end.

    Keras adds its `History` at the very end, where a backup would miss it.
    """
    kinds = (keras.callbacks.History, BackupAndRestore)
    backups = [c for c in callbacks if isinstance(c, BackupAndRestore)]
    if not backups:
        return callbacks
    history = [c for c in callbacks if isinstance(c, keras.callbacks.History)]
    others = [c for c in callbacks if not isinstance(c, kinds)]
    return [*others, *(history or [keras.callbacks.History()]), *backups]


def _settings(model: Any) -> dict[str, str]:
    """What a run is trained with, in a comparable form."""
    found = {"temperature": repr(model.temperature), "seed": repr(model.seed)}
    for name in ("attack", "objective", "schedule"):
        part = getattr(model, name)
        config = part.get_config() if hasattr(part, "get_config") else {}
        found[name] = f"{type(part).__name__} {config}"
    return found


def _training_data(model: Any) -> Any:
    """What of the data of this `fit` has a state, or None."""
    data = model.fit_data[0]
    data = getattr(data, "epoch_counter", data)
    return data if hasattr(data, "set_state") else None

"""Continues a run that was killed, after its last complete epoch."""

import os
import pathlib
import sys
import warnings
from typing import Any

import keras

from keras_wake import backend
from keras_wake.checkpoint import callback_states
from keras_wake.checkpoint import run_record
from keras_wake.checkpoint import snapshot
from keras_wake.checkpoint import variable_keys
from keras_wake.checkpoint.backup_folder import BackupFolder
from keras_wake.checkpoint.backup_folder import BAD_STATE_ERRORS
from keras_wake.checkpoint.lock import in_use_error
from keras_wake.training.session import FitSession
from keras_wake.utils import validate
from keras_wake.wake_model import WakeModel


class BackupAndRestore(keras.callbacks.Callback):
    """Saves the state of training after every epoch, and continues from it.

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
    chief writes and all read, so they need a folder in common. While `fit`
    runs, the chief holds a lock of the operating system on the folder, which
    a kill frees.

    When `fit` has ended as planned, by its number of epochs or stopped by a
    callback, the last backup is renamed to `finished.npz`. The same call
    restores it and trains nothing; one with more epochs goes on; one with
    fewer is refused. A run that a callback has stopped also goes on where that
    has other arguments or is left out. To start over, delete the folder.

    The network and the class of the optimizer must be the same. All other
    settings may change (learning rate, momentum, attack, batch size, dropout
    rates, arguments of callbacks, ...): those of the script are used, and a
    warning names both values. Variables of the optimizer that the backup does
    not have, such as those of a new momentum, begin anew. If the script has
    the learning rate with which the run began, the run continues with the rate
    in the backup, which a callback may have changed. Any other rate is a new
    setting. A callback continues from the saved state of the callback with the
    same class and arguments. If the arguments changed, it continues from the
    only callback of its class with the same `monitor` and file name. If there
    is none or several, it starts from scratch, with a warning.

    Not kept: the global generators of Python, NumPy and TensorFlow, with
    which Keras shuffles arrays (`fit(shuffle=True)`); the position within an
    epoch, and within the data where `steps_per_epoch` ends an epoch before
    they do; the model and the callbacks themselves, which the script makes
    again.

    Args:
        backup_dir: Folder of the backup, for this run alone.
        delete_checkpoint: Whether to rename `backup.npz` to `finished.npz`
            when `fit` ends, so that the same call trains nothing. With
            `False` the file keeps its name, and the same call continues a run
            that one of your own callbacks has stopped, for example at a time
            limit. Unlike in Keras, no backup is deleted. Defaults to `True`.

    Raises:
        ValueError: If `backup_dir` is empty; in `fit`, if another process
            uses it, or the backup is that of another model or more epochs,
            or damaged, or not that of the other workers.
        TypeError: If `backup_dir` is no path; in `fit`, if a callback's state
            cannot be stored.
        OSError: In `fit`, if `backup_dir` cannot be written.

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
        self.backup_dir = pathlib.Path(validate.path(backup_dir=backup_dir))
        self.delete_checkpoint = validate.boolean(
            delete_checkpoint=delete_checkpoint
        )
        self._folder = BackupFolder(self.backup_dir)
        self._written = 0
        # From `open_backup`, for `on_train_begin`.
        self._found: tuple[dict[str, Any], list[Any]] | None = None
        self._record: dict[str, Any] = {}
        self._settings: dict[str, str] = {}
        self._fit: Any = None

    def set_model(self, model: Any) -> None:
        """Checks that the model is one whose state is known."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                "`BackupAndRestore` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. For any "
                "other model there is `keras.callbacks.BackupAndRestore`."
            )
        snapshot.check_complete(model)

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
        found = self._read(model)
        if found is None:
            return 0
        state, values = found
        record = run_record.run_record(model, [], {})
        self._check_model(model, values, state["record"], record)
        self._put_back(model, values, state["record"])
        return state["epoch"]

    runs_last = True

    def before_fit(self, session: FitSession) -> None:
        """Locks the folder, and reads the backup that is in it."""
        # For a model that is not compiled, `fit` raises an error of Keras.
        if session.model.compiled:
            self.lock_folder(session.model)
            self.open_backup(session.model, session)

    def after_fit(self, session: FitSession) -> None:
        """Frees the folder."""
        self.close_backup(session.model)

    def lock_folder(self, model: Any) -> None:
        """Locks the folder for this `fit`; called by `fit` first."""
        free = True
        if model.is_chief:
            free = self._folder.lock()
        if not all(map(int, model.of_all_processes(int(free)))):
            raise in_use_error(
                f"The folder {self.backup_dir}", "`fit`", "backup_dir"
            )

    def open_backup(self, model: Any, fit: FitSession) -> None:
        """Reads the backup; called by `fit` before training begins.

        A backup that cannot be used is refused here, before anything is
        changed.

        Args:
            model: The `WakeModel`.
            fit: The arguments `epochs` and `initial_epoch` of `fit`, and how
                it divides the data into `batches`.
        """
        self._fit = fit
        others = self._others(model)
        self._record = run_record.run_record(model, others, fit.batches)
        # Now, as an attack of the user's own may count its calls.
        self._settings = run_record.settings_of(model)
        self._found = self._read(model)
        if self._found is None:
            return
        state, values = self._found
        epoch, epochs = state["epoch"], fit.epochs
        if epochs < epoch:
            raise ValueError(
                f"The backup {self._folder.newest} was made after {epoch} "
                f"epochs, and `fit` is to train fewer: epochs={epochs}. Pass "
                "a larger number, load the model with `restore(model)`, or "
                f"{self._folder.how_to_start_over}."
            )
        self._check_model(model, values, state["record"], self._record)

    def close_backup(self, model: Any) -> None:
        """Unlocks the folder; called by `fit`, however it has ended."""
        self._found, self._record, self._fit = None, {}, None
        if model.is_chief:
            self._folder.unlock()

    # `WakeModel.fit` has this callback come after all others, `History`
    # among them. So they have begun when it restores their states, and an
    # epoch has ended for them when it reads these.

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the state of an earlier run, if there is one."""
        self._written = 0
        found, self._found = self._found, None
        if found is None:
            if self.model.is_chief:
                first = self._fit.initial_epoch
                self._folder.save_log_lengths(self._others(self.model), first)
            return
        state, values = found
        self._written = epoch = state["epoch"]
        before = state["record"]
        words = self._put_back(self.model, values, before)
        self._record["learning_rate"] = before["learning_rate"]
        given = self._record["callbacks"]
        with self._folder.explaining_errors("of the callbacks"):
            pairs = callback_states.match_callbacks(before["callbacks"], given)
        goes_on = self._fit.epochs > state["epochs"] or (
            state["stopped"]
            and callback_states.stopper_has_changed(state, given, pairs)
        )
        stopped = state["stopped"] and (
            self.delete_checkpoint or bool(callback_states.stoppers(state))
        )
        callback_states.restore_states(
            self._others(self.model), pairs, state, self._folder
        )
        self._warn_of_other_settings(state, words, pairs)
        data = _training_data(self.model)
        if data is not None and state["data"] is not None:
            with self._folder.explaining_errors("of the data"):
                data.set_state(state["data"])
        if state.get("random") is not None:
            with self._folder.explaining_errors("of the random numbers"):
                backend.set_random_state(state["random"])
        self.model._initial_epoch = epoch
        if goes_on:
            callback_states.undo_stop(self._others(self.model))
            stopped = self.model.stop_training = False
        self._skip_training_if_finished(state, stopped)

    def _skip_training_if_finished(
        self, state: dict[str, Any], stopped: bool
    ) -> None:
        """Warns, and trains no epoch, if the run has already ended."""
        newest = self._folder.newest
        epoch, epochs = state["epoch"], self._fit.epochs
        if not stopped and epoch < epochs:
            return
        if stopped:
            what = (
                f"The run of the backup {newest} was stopped by one "
                f"of its callbacks after epoch {epoch}: nothing is left to "
                "train."
            )
        else:
            what = (
                f"The run of the backup {newest} has all its {epoch} "
                "epochs: nothing is left to train. For more, pass a larger "
                "`epochs`."
            )
        warnings.warn(
            f"{what} To start from the beginning, "
            f"{self._folder.how_to_start_over}.",
            stacklevel=3,
        )
        self.model._initial_epoch = sys.maxsize

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the backup of this epoch in place of that of the last."""
        data = _training_data(self.model)
        state = {
            "epoch": epoch + 1,
            "callbacks": [
                [type(callback).__name__, callback_states.state_of(callback)]
                for callback in self._others(self.model)
            ],
            "data": None if data is None else data.get_state(),
            "random": backend.random_state(),
            "settings": self._settings,
            "record": {
                **self._record,
                "variables": variable_keys.keys_of(self.model),
            },
            "epochs": self._fit.epochs,
            "stopped": bool(self.model.stop_training),
        }
        # By all workers, which may have to exchange what they hold.
        values = snapshot.take(self.model)
        if not self.model.is_chief:
            return
        try:
            self._folder.write(state, values)
        except OSError as error:
            warnings.warn(
                f"The backup of epoch {epoch + 1} could not be written to "
                f"{self._folder.path}: {error}. "
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
        """Marks the backup of a run that has ended as planned."""
        if self.delete_checkpoint and self.model.is_chief:
            self._folder.finish()

    def _read(self, model: Any) -> tuple[dict[str, Any], list[Any]] | None:
        """The backup, if there is one, which all workers must have."""
        found = self._folder.read()
        of_all = model.of_all_processes(found[0]["epoch"] if found else 0)
        epochs = [int(epoch) for epoch in of_all]
        if len(set(epochs)) > 1:
            raise ValueError(
                "All workers must continue from the same backup. Received: "
                f"backups after the epochs {epochs}, one for each replica. "
                f"Make `backup_dir` ({self.backup_dir}) a folder that they "
                "share, or copy the chief's to all of them."
            )
        return found

    def _check_model(
        self,
        model: Any,
        values: list[Any],
        saved: dict[str, Any],
        current: dict[str, Any],
    ) -> None:
        """Refuses the backup of another network or optimizer."""
        with self._folder.explaining_errors("of the run"):
            words = run_record.refusals(saved, current)
            keys = saved["variables"]
        try:
            variable_keys.check(model, variable_keys.by_key(values, keys))
        except BAD_STATE_ERRORS as error:
            words.insert(0, str(error))
        if words:
            raise self._misfit("; ".join(w.rstrip(".") for w in words) + ".")

    def _misfit(self, what: str) -> ValueError:
        return ValueError(
            f"The backup {self._folder.newest} does not fit. {what} It is "
            "that of another model or optimizer. Choose another `backup_dir`, "
            "or delete the backup to start from the beginning."
        )

    def _put_back(
        self, model: Any, values: list[Any], record: dict[str, Any]
    ) -> list[str]:
        try:
            return run_record.restore(model, values, record)
        except BAD_STATE_ERRORS as error:
            raise self._misfit(str(error)) from error

    def _warn_of_other_settings(
        self, state: dict[str, Any], words: list[str], pairs: dict[int, int]
    ) -> None:
        """Names each setting that differs, with both values."""
        newest = self._folder.newest
        current = {"settings": self._settings, "record": self._record}
        with self._folder.explaining_errors("of the run"):
            # Other workers have no callbacks that write.
            whole = self.model.is_chief
            words += run_record.differences(state, current, pairs, whole)
        if words:
            warnings.warn(
                f"The backup {newest} was made with other settings, and "
                "training goes on with those of this model. Differing: "
                f"{'; '.join(words)}. Choose another `backup_dir` for "
                "another run.",
                stacklevel=3,
            )

    def _others(self, model: Any) -> list[Any]:
        """The callbacks of this `fit` but those that back up."""
        return [
            callback
            for callback in model.session.callbacks
            if not isinstance(callback, BackupAndRestore)
        ]


def _training_data(model: Any) -> Any:
    """What of the data of this `fit` has a state, or None."""
    data = model.session.data[0]
    data = getattr(data, "epoch_counter", data)
    return data if hasattr(data, "set_state") else None

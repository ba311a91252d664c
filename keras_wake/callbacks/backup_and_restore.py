"""Continues a run that was killed, after its last complete epoch."""

import os
import pathlib
import warnings

import keras
import numpy as np

from keras_wake import backend
from keras_wake.checkpoint import callback_states
from keras_wake.checkpoint import run_record
from keras_wake.checkpoint import snapshot
from keras_wake.checkpoint import variable_keys
from keras_wake.checkpoint.backup_folder import Backup
from keras_wake.checkpoint.backup_folder import BackupFolder
from keras_wake.checkpoint.lock import in_use_error
from keras_wake.training.session import FitSession
from keras_wake.utils import validate
from keras_wake.utils.types import Config
from keras_wake.utils.types import Dataset
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

    It is one file, `backup.npz`. A kill at any moment leaves this backup or
    the one before. If it cannot be written (a full disk, say), that is a
    warning, and the next epoch tries again. With several workers the chief
    writes and all read, so they need a folder in common. While `fit` runs, the
    chief holds a lock of the operating system on the folder (not on Windows),
    which a kill frees.

    When `fit` has ended as planned, by its number of epochs or stopped by a
    callback, the last backup is renamed to `finished.npz`. The same call
    restores it and trains nothing; one with more epochs goes on; one with
    fewer is refused. A run that a callback has stopped also goes on where that
    has other arguments or is left out. To start over, delete the folder.

    The network and the class of the optimizer must be the same. All other
    settings may change (learning rate, momentum, attack, batch size, dropout
    rates, arguments of callbacks, ...): those of the script are used, and a
    warning names both values. Variables of the optimizer that the backup does
    not have, such as those of a new momentum, begin anew. Only if the script
    has the learning rate with which the run began, the run continues with the
    rate in the backup, which a callback may have changed. A callback continues
    from the saved state of the callback with the same class and arguments; if
    the arguments changed, from the only one of its class with the same
    `monitor` and file name; else it starts from scratch, with a warning.

    Not kept: the global generators of Python, NumPy and TensorFlow, with
    which Keras shuffles arrays (`fit(shuffle=True)`); the position within an
    epoch, and within the data where `steps_per_epoch` ends an epoch before
    they do.

    Args:
        backup_dir: Folder of the backup, for this run alone.
        delete_checkpoint: Whether to rename `backup.npz` to `finished.npz`
            when `fit` ends. With `False` it keeps its name, and the same call
            continues a run that one of your own callbacks has stopped, for
            example at a time limit. Unlike in Keras, no backup is deleted.
            Defaults to `True`.

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
            kw.EMATeacher(decay=0.999),
            kw.BackupAndRestore("runs/1/backup"),
        ],
    )
    ```
    """

    # `History` and all others have begun when this callback restores their
    # states, and have ended an epoch when it reads them.
    runs_last = True

    def __init__(
        self, backup_dir: str | os.PathLike, delete_checkpoint: bool = True
    ) -> None:
        super().__init__()
        self.backup_dir = pathlib.Path(validate.path(backup_dir=backup_dir))
        self.delete_checkpoint = validate.boolean(
            delete_checkpoint=delete_checkpoint
        )
        self._folder = BackupFolder(self.backup_dir)
        # What `before_fit` has found out.
        self._others: list[keras.callbacks.Callback] = []
        self._found: Backup | None = None
        self._current: Config = {}
        self._pairs: dict[int, int] = {}
        self._stopped = False

    def set_model(self, model: WakeModel) -> None:
        """Checks that the model is one whose state is known."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                "`BackupAndRestore` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. For any "
                "other model there is `keras.callbacks.BackupAndRestore`."
            )
        snapshot.check_complete(model)

    def restore(self, model: WakeModel) -> int:
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
        self._check(model, found, run_record.run_record(model, [], {}))
        with self._folder.must_fit("this script"):
            run_record.restore(model, values, state["record"])
        return state["epoch"]

    def before_fit(self, session: FitSession) -> int | None:
        """Locks the folder; reads and checks the backup.

        So a backup that cannot be used is refused before anything is changed.

        Returns:
            The first epoch of this `fit`, which is the number of epochs if the
            run has ended; None if there is no backup.
        """
        model = session.model
        backups = [c for c in session.callbacks if isinstance(c, type(self))]
        if len(backups) > 1:
            folders = [str(backup.backup_dir) for backup in backups]
            raise ValueError(
                "A `fit` takes one `BackupAndRestore`. Received: "
                f"{len(backups)}, with the folders {folders}. Pass one of them."
            )
        if not model.compiled:
            return None  # Keras refuses to train it.
        free = self._folder.lock() if model.is_chief else True
        if not all(map(int, model.of_all_processes(int(free)))):
            raise in_use_error(
                f"The folder {self.backup_dir}", "`fit`", "backup_dir"
            )
        self._others = [c for c in session.callbacks if c is not self]
        # Now, as an attack of the user's own may count its calls.
        self._current = {
            "settings": run_record.settings_of(model),
            "record": run_record.run_record(
                model, self._others, session.data_settings
            ),
        }
        self._found = self._read(model)
        if self._found is None:
            return None
        state, _ = self._found
        epoch = state["epoch"]
        if session.epochs < epoch:
            raise ValueError(
                f"The backup {self._folder.newest} was made after {epoch} "
                f"epochs, and `fit` is to train fewer: epochs={session.epochs}."
                " Pass a larger number, load the model with `restore(model)`, "
                f"or {self._folder.how_to_start_over}."
            )
        self._check(model, self._found, self._current["record"])
        self._stopped = bool(
            state["stopped"]
            and session.epochs <= state["epochs"]
            and (self.delete_checkpoint or callback_states.stoppers(state))
            and not callback_states.stopper_has_changed(
                state, self._current["record"]["callbacks"], self._pairs
            )
        )
        return session.epochs if self._stopped else epoch

    def after_fit(self, session: FitSession) -> None:
        """Unlocks the folder."""
        self._found, self._others = None, []
        if session.model.is_chief:
            self._folder.unlock()

    def on_train_begin(self, logs: Config | None = None) -> None:
        """Restores the state of an earlier run, if there is one."""
        found, self._found = self._found, None
        if found is not None:
            self._restore_run(*found)
        elif self.model.is_chief:
            first = self.model.session.initial_epoch
            self._folder.save_log_lengths(self._others, first)

    def _restore_run(self, state: Config, values: list[np.ndarray]) -> None:
        epoch, record = state["epoch"], state["record"]
        with self._folder.must_fit("this script"):
            words = run_record.restore(self.model, values, record)
            words += run_record.differences(state, self._current, self._pairs)
        self._current["record"]["learning_rate"] = record["learning_rate"]
        for number, saved in self._pairs.items():
            name, own = state["callbacks"][saved]
            with self._folder.must_fit(f"`{name}`"):
                if own is not None:
                    callback = self._others[number]
                    callback_states.set_state(callback, own, epoch)
        data = self._data_with_state()
        with self._folder.must_fit("this script"):
            if data is not None and state.get("data") is not None:
                data.set_state(state["data"])
            if state.get("random") is not None:
                backend.set_random_state(state["random"])
        # Other workers have no callbacks that write.
        if words and self.model.is_chief:
            warnings.warn(
                f"The backup {self._folder.newest} was made with other "
                "settings, and training goes on with those of this model. "
                f"Differing: {'; '.join(words)}. Choose another `backup_dir` "
                "for another run.",
                stacklevel=3,
            )
        if self._stopped:
            what = f"was stopped by a callback after epoch {epoch}"
        else:
            # What callbacks have counted is kept.
            for callback in self._others:
                if isinstance(callback, keras.callbacks.EarlyStopping):
                    callback.stopped_epoch = 0
            self.model.stop_training = False
            if epoch < self.model.session.epochs:
                return
            what = f"has all its {epoch} epochs"
        warnings.warn(
            f"The run of the backup {self._folder.newest} {what}: nothing is "
            "left to train. For more, pass a larger `epochs`. To start from "
            f"the beginning, {self._folder.how_to_start_over}.",
            stacklevel=3,
        )

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        """Writes the backup of this epoch in place of that of the last."""
        data = self._data_with_state()
        keys = variable_keys.keys_of(self.model)
        # By all workers, which may have to exchange what they hold.
        values = snapshot.take(self.model)
        state = {
            **self._current,
            "epoch": epoch + 1,
            "epochs": self.model.session.epochs,
            "stopped": bool(self.model.stop_training),
            "record": {**self._current["record"], "variables": keys},
            "callbacks": [
                [type(callback).__name__, callback_states.state_of(callback)]
                for callback in self._others
            ],
            "data": None if data is None else data.get_state(),
            "random": backend.random_state(),
        }
        if not self.model.is_chief:
            return
        try:
            self._folder.write(state, values)
        except OSError as error:
            warnings.warn(
                f"The backup of epoch {epoch + 1} could not be written to "
                f"{self._folder.path}: {error}. An earlier one stays. "
                "Training goes on, and the next epoch tries again.",
                stacklevel=2,
            )

    def on_train_end(self, logs: Config | None = None) -> None:
        """Marks the backup of a run that has ended as planned."""
        if self.delete_checkpoint and self.model.is_chief:
            self._folder.finish()

    def _read(self, model: WakeModel) -> Backup | None:
        """The backup, if there is one, which all workers must have."""
        found = self._folder.read()
        of_all = model.of_all_processes(found[0]["epoch"] if found else 0)
        epochs = [int(epoch) for epoch in of_all]
        if len(set(epochs)) > 1:
            raise ValueError(
                "All workers must continue from the same backup. Received: "
                f"backups after the epochs {epochs}, one for each worker. "
                f"Make `backup_dir` ({self.backup_dir}) a folder that they "
                "share, or copy the chief's to all of them."
            )
        return found

    def _check(self, model: WakeModel, found: Backup, current: Config) -> None:
        """Refuses another network or optimizer; matches the callbacks."""
        state, values = found
        with self._folder.must_fit("this script"):
            if state.get("record") is None:
                self._replace_record(state, current)
            record = state["record"]
            words = run_record.refusals(record, current)
            if words:
                raise ValueError("; ".join(words))
            if "variables" not in record:
                # In the order of the variables of this script.
                record["variables"] = variable_keys.keys_of(model)
            saved = variable_keys.by_key(values, record["variables"])
            variable_keys.check(model, saved)
            self._pairs = callback_states.match_callbacks(
                state["callbacks"], record["callbacks"], current["callbacks"]
            )

    def _replace_record(self, state: Config, current: Config) -> None:
        state["record"] = run_record.replacement(state["callbacks"], current)
        state["stopped"] = bool(callback_states.stoppers(state))
        warnings.warn(
            f"The backup {self._folder.newest} was written by an older "
            "keras-wake, which did not store the layers, the learning rate "
            "and the arguments of callbacks, so these cannot be compared. The "
            "learning rate is that of the backup.",
            stacklevel=4,
        )

    def _data_with_state(self) -> Dataset | None:
        """What of the data of this `fit` has a state."""
        data, _ = self.model.session.data
        data = getattr(data, "epoch_counter", data)
        return data if hasattr(data, "set_state") else None

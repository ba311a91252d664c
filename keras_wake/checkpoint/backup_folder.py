"""The folder of a backup: its files, and the lock on it."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import TypeAlias

import keras
import numpy as np

from keras_wake.checkpoint import archive
from keras_wake.checkpoint import csv_rows
from keras_wake.checkpoint.lock import FileLock
from keras_wake.utils import validate
from keras_wake.utils.types import Config

# Its state and the values of the variables.
Backup: TypeAlias = tuple[Config, list[np.ndarray]]
# Entries of a backup that are used before all of it is checked.
_TYPES = {
    "epoch": int,
    "epochs": int,
    "stopped": bool,
    "callbacks": list,
    "settings": dict,
}
# Entries that backups of earlier versions may lack.
_DEFAULTS: Config = {
    "epochs": sys.maxsize,
    "stopped": False,
    "settings": {},
}


class BackupFolder:
    """What `BackupAndRestore` reads and writes.

    Until the first backup, the lock file holds the length of each log file,
    so that the next run can remove rows that a killed run has added.

    Args:
        folder: Its path; it need not be there.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.path = folder / "backup.npz"
        self.finished = folder / "finished.npz"
        # For a message.
        self.how_to_start_over = (
            f"delete the folder {folder} or choose another one"
        )
        self._lock = FileLock(folder / "lock")

    @property
    def newest(self) -> pathlib.Path | None:
        """The file of the backup, if there is one."""
        # Both are there if a run that went on was killed.
        both = (self.path, self.finished)
        return next((path for path in both if path.exists()), None)

    def lock(self) -> bool:
        """Makes the folder and locks it; returns False if it is in use."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._lock.acquire()
        except OSError as error:
            raise OSError(
                f"Backups cannot be written to {self.folder}: {error}. "
                "`backup_dir` must be a folder, or one that can be made."
            ) from error

    def unlock(self) -> None:
        """Frees the folder, and deletes it if there is nothing in it."""
        # The next run needs the lengths of log files, see the class.
        keep = self.newest is None and bool(self._lock.read())
        self._lock.release(keep_file=keep)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def save_log_lengths(
        self, callbacks: list[keras.callbacks.Callback], epoch: int
    ) -> None:
        """Saves how long log files are before the row of the first `epoch`.

        A row of an earlier run, killed before its first backup, is removed.
        """
        csv_rows.remove_unsaved_rows(callbacks, self._lock.read(), epoch)
        self._lock.write(csv_rows.log_lengths(callbacks))

    def read(self) -> Backup | None:
        """The newest backup, or None. One that is damaged is refused."""
        path = self.newest
        if path is None:
            return None
        try:
            state, values = archive.read(path)
        except FileNotFoundError:  # Renamed in between.
            return None
        state = _DEFAULTS | state
        for name, kind in _TYPES.items():
            value = state.get(name)
            # For `isinstance`, True is an `int`.
            if type(value) is not kind or state["epoch"] < 1:
                raise ValueError(
                    f"The file {path} is no backup of a run: its `{name}` is "
                    f"{value!r}. Delete it to start from the beginning."
                )
        return state, values

    @contextlib.contextmanager
    def must_fit(self, what: str) -> Iterator[None]:
        """Turns any error of `what`, which uses the backup, into a clear one.

        The backup is that of another script, then, or was edited.
        """
        try:
            yield
        except Exception as error:
            text = validate.reason(error)
            raise ValueError(
                f"The backup {self.newest} does not fit {what}: "
                f"{text.rstrip('.')}. Is it that of another model or "
                f"optimizer? To start from the beginning, "
                f"{self.how_to_start_over}."
            ) from error

    def write(self, state: Config, values: list[np.ndarray]) -> None:
        """Writes a backup in place of the one that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        archive.write(self.path, state, values)
        with contextlib.suppress(OSError):
            self.finished.unlink(missing_ok=True)

    def finish(self) -> None:
        """Marks the backup as that of a run that has ended."""
        with contextlib.suppress(OSError):
            os.replace(self.path, self.finished)

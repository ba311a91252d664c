"""A lock file: one process at a time uses a folder."""

import contextlib
import errno
import os
import pathlib
import warnings
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]

# The locks that this process holds.
_HELD: set["FileLock"] = set()


class FileLock:
    """A lock file, which one holder at a time has, also within a process.

    The operating system frees it when the process ends, whatever ends it, so
    nothing has to be deleted after a kill. It is a lock of `flock`: one of
    `lockf` would be lost as soon as the process closes any other descriptor
    of the file, as a copy of the folder does. A forked process, of a data
    loader for example, shares the lock, and would keep it if it survived the
    kill. So each child closes its copy of the file.

    Args:
        path: The file, in a folder that is there.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Takes the lock; returns False where somebody else has it.

        Raises:
            OSError: If the file cannot be written.
        """
        while True:
            file = open(self.path, "a+b", buffering=0)
            if not _lock(file):
                file.close()
                return False
            # Whoever held the lock may have deleted the file in between.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    self._file = file
                    _HELD.add(self)
                    return True
            file.close()

    def read(self) -> bytes:
        """What the file holds; only while the lock is held."""
        if self._file is None:
            return b""
        self._file.seek(0)
        return self._file.read()

    def write(self, content: bytes) -> None:
        """Replaces what the file holds; only while the lock is held."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.write(content)

    def release(self, keep_file: bool = False) -> None:
        """Gives the lock back, if it is held, and deletes the file."""
        if self._file is None:
            return
        if not keep_file:
            # While the lock is held: nobody may have taken it.
            with contextlib.suppress(OSError):
                self.path.unlink()
        if fcntl is not None:
            # Also for a child that has not closed the file yet.
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Closes the file, which unlocks it unless a parent has it open."""
        _HELD.discard(self)
        if self._file is not None:
            self._file.close()
            self._file = None


def in_use_error(what: str, user: str, argument: str) -> ValueError:
    """The error to raise where `FileLock.acquire` has returned False."""
    return ValueError(
        f"{what} is in use by another {user}, of this process or another one. "
        f"Wait until it has ended, or choose another `{argument}`."
    )


def _lock(file: IO[bytes]) -> bool:
    """Locks an open file; returns False where somebody else has locked it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        warnings.warn(
            f"{file.name} cannot be locked: {error}. Make sure that no other "
            "process uses the folder at the same time.",
            stacklevel=4,
        )
    return True


def _leave_locks_to_the_parent() -> None:
    for lock in list(_HELD):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)

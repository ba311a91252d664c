"""A lock file: one process at a time uses a folder."""

import contextlib
import errno
import os
import pathlib
import warnings

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

_IN_USE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# The locks that this process holds.
_HELD: set["FileLock"] = set()


class FileLock:
    """A lock file, which one holder at a time has, also within a process.

    The operating system frees it when the process ends, whatever ends it, so
    nothing has to be deleted after a kill. It is a lock of `flock`: one of
    `lockf` would be lost as soon as the process closes any other descriptor
    of the file, as a copy of the folder does. A forked process, of a data
    loader for example, shares the lock, and would keep it if it survived the
    kill. So it closes the file.

    Args:
        path: The file, in a folder that is there.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock; returns False where somebody else has it.

        Raises:
            OSError: If the file cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        while True:
            descriptor = os.open(self.path, flags, 0o666)
            if not _lock(descriptor, self.path):
                os.close(descriptor)
                return False
            # Whoever held the lock may have deleted the file in between.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    break
            os.close(descriptor)
        self._descriptor = descriptor
        _HELD.add(self)
        return True

    def read(self) -> bytes:
        """What the file holds; only while the lock is held."""
        if self._descriptor is None:
            return b""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, 1 << 20)

    def write(self, content: bytes) -> None:
        """Replaces what the file holds; only while the lock is held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, content)

    def release(self, keep_file: bool = False) -> None:
        """Gives the lock back, if it is held, and deletes the file."""
        if self._descriptor is None:
            return
        # Nobody may take the lock before the file is deleted. But Windows
        # deletes no file that is open.
        if not keep_file and fcntl is not None:
            self._delete()
        if fcntl is not None:
            # Also for a child that has not closed the file yet.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()
        if not keep_file and fcntl is None:
            self._delete()

    def _delete(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        _HELD.discard(self)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def in_use_error(what: str, user: str, argument: str) -> ValueError:
    """The error to raise where `FileLock.acquire` has returned False.

    Args:
        what: What is locked.
        user: What else may have locked it.
        argument: Name of the argument that names another place.
    """
    return ValueError(
        f"{what} is in use by another {user}, of this process or another one. "
        f"Wait until it has ended, or choose another `{argument}`."
    )


def _lock(descriptor: int, path: pathlib.Path) -> bool:
    """Locks an open file; returns False where somebody else has locked it."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            # Behind the content, which others may read then.
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in _IN_USE:
            return False
        warnings.warn(
            f"{path} cannot be locked: {error}. Make sure that no other "
            "process uses the folder at the same time.",
            stacklevel=4,
        )
    return True


def _leave_locks_to_the_parent() -> None:
    """Closes the lock files in a forked process, which unlocks none."""
    for lock in list(_HELD):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)

"""A lock file: one process at a time uses a folder."""

import contextlib
import errno
import os
import pathlib
import threading
import warnings

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

# The locks that this process holds, by file.
_HELD: dict[str, "FileLock"] = {}
_HELD_GUARD = threading.Lock()
_IN_USE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class FileLock:
    """A lock file: one holder at a time, also within a process.

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
        self._key = os.path.realpath(path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock; returns False where somebody else has it.

        Raises:
            OSError: If the file cannot be written.
        """
        with _HELD_GUARD:
            if self._key in _HELD:
                return False
            while True:
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
                descriptor = os.open(self.path, flags, 0o666)
                if not _locked(descriptor, self.path):
                    os.close(descriptor)
                    return False
                with contextlib.suppress(OSError):
                    now = os.stat(self.path)
                    if os.path.samestat(os.fstat(descriptor), now):
                        break
                # Whoever held it has deleted it in between.
                os.close(descriptor)
            self._descriptor = descriptor
            _HELD[self._key] = self
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
        with _HELD_GUARD:
            if not keep_file and fcntl is not None:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            if fcntl is not None:
                # Also for a child that has not closed the file yet.
                with contextlib.suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            if not keep_file and fcntl is None:
                # Windows deletes no file that is open.
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self._descriptor = None
            _HELD.pop(self._key, None)


def _leave_locks_to_the_parent() -> None:
    """Closes the lock files in a forked process, which unlocks none."""
    global _HELD_GUARD
    # Another thread of the parent may have held it.
    _HELD_GUARD = threading.Lock()
    for lock in _HELD.values():
        if lock._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(lock._descriptor)
            lock._descriptor = None
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


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


def _locked(descriptor: int, path: pathlib.Path) -> bool:
    """Locks an open file; returns False where another process has it."""
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
            f"{path} cannot be locked: {error}. See to it that no other "
            "process uses the folder at the same time.",
            stacklevel=4,
        )
    return True

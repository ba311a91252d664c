"""Files that are written whole, and folders to write to."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from keras_wake.utils import validate


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives another name to write to, then moves the file into place.

    Whatever ends the writing (a full disk, Ctrl-C, a kill), the file is
    complete or what it was before. What a kill leaves under the other name
    is deleted the next time.

    Args:
        path: The file. If it is a link, what it points to is written.

    Yields:
        Where to write: a name in the same folder, with the same ending.
    """
    path = pathlib.Path(os.path.realpath(path))
    aside = path.with_name(f"unfinished_{path.name}")
    try:
        # Keras asks the user before it replaces a file.
        aside.unlink(missing_ok=True)
        yield aside
        # The content must be on the disk before the name is, and the name
        # before the caller goes on, in case the machine fails.
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
        with contextlib.suppress(OSError):  # Windows opens no folders.
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def check_folder(path: object) -> None:
    """Refuses a `path` that cannot be the name of a folder."""
    path = validate.path(path=path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(
            "`path` must name a folder. Received: "
            f"path={os.fspath(path)!r}, which is a file."
        )


def make_folder(path: str | os.PathLike) -> None:
    """Creates a folder and checks that it is writable, before training."""
    check_folder(path)
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it may not be written to")
    except OSError as error:
        raise ValueError(
            "`path` must be a folder that files can be written to. Received: "
            f"path={os.fspath(path)!r}: {error}."
        ) from error

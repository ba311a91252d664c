"""Files that are complete, or what they were before."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Has a file written under another name, then moved into place.

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
        # What a kill has left: Keras asks before it replaces a file.
        aside.unlink(missing_ok=True)
        yield aside
        # On the disk before the name is, should the machine fail.
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
        _fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def _fsync_folder(folder: pathlib.Path) -> None:
    """Has the new name on the disk, where folders can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def written_whole(filepath: Any, ending: str, overwrite: bool) -> Any:
    """`written_aside` for a file that Keras writes, where that is possible.

    Args:
        filepath: What the user has named: a file, a folder, another machine.
        ending: That of a single file of the kind.
        overwrite: Whether a file may be replaced without a question.

    Returns:
        Context manager that gives the path to hand to Keras.
    """
    local = isinstance(filepath, (str, os.PathLike)) and (
        "://" not in os.fspath(filepath)
    )
    single = local and os.fspath(filepath).endswith(ending)
    if single and (overwrite or not os.path.exists(filepath)):
        return written_aside(filepath)
    return contextlib.nullcontext(filepath)

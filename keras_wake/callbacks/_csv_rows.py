"""Removes rows of a `CSVLogger` whose epochs will be trained again.

A row is written before the backup of its epoch, so a kill may leave a row, or
half of one, that no backup knows. How long the file was before that row is
known from the backup, and before the first backup from the lock file of its
folder (see `BackupFolder`).
"""

import json
import os
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import keras


def state_of(logger: Any) -> dict[str, Any] | None:
    """The whole file, so that one that is not appended to comes back, too."""
    try:
        with open(logger.filename, newline="") as file:
            text = file.read()
    except OSError:  # Not on a disk of this machine.
        return None
    return {"text": text, "keys": logger.keys}


def set_state(logger: Any, state: dict[str, Any], epoch: int) -> None:
    """Brings the file back to a state, up to the row before `epoch`."""
    logger.csv_file.flush()
    with open(logger.filename, newline="") as file:
        found = file.read()
    encoding = logger.csv_file.encoding
    size = len(state["text"].encode(encoding))
    if found.startswith(state["text"]):
        remove_rows_after(logger, size, epoch)
    elif logger.append and not state["text"].startswith(found):
        warnings.warn(
            f"{logger.filename} is not the file of which the backup holds a "
            "copy. It is kept, and new rows are appended. There may be two "
            "rows of one epoch.",
            stacklevel=4,
        )
        _go_on_at_the_end(logger)
    else:
        with open(logger.filename, "w", newline="") as file:
            file.write(state["text"])
        _go_on_at_the_end(logger)
    logger.keys = state["keys"]


def remove_rows_after(
    logger: Any, size: int, epoch: int, most: int | None = None
) -> None:
    """Removes the rows that a killed run has written after byte `size`.

    Those are rows of `epoch` and the epochs after it, in order. Any others
    may belong to another run, and are kept.

    Args:
        logger: A `CSVLogger` whose file is open.
        size: Length of the file before them, in bytes.
        epoch: The first epoch that will be trained again, from 0.
        most: How many rows the killed run can have written; None if that
            is not known.
    """
    with open(logger.filename, "rb") as file:
        file.seek(size)
        rest = file.read()
    rows = rest.split(b"\n")[:-1]
    if not size:
        del rows[:1]  # The header.
    numbers = [row.split(logger.sep.encode())[0] for row in rows]
    wanted = [str(epoch + n).encode() for n in range(len(rows))]
    if numbers != wanted or (most is not None and len(rows) > most):
        warnings.warn(
            f"{logger.filename} has {len(rows)} rows that may belong to "
            "another run. They are kept, and new rows are appended.",
            stacklevel=4,
        )
    else:
        os.truncate(logger.filename, size)
    _go_on_at_the_end(logger)


def _go_on_at_the_end(logger: Any) -> None:
    # Where the next row goes if the file is not appended to.
    logger.csv_file.seek(0, os.SEEK_END)
    logger.append_header = not os.path.getsize(logger.filename)


def remove_unsaved_rows(
    callbacks: list[Any], lengths: bytes, epoch: int
) -> None:
    """Removes the row of a run that was killed before its first backup.

    Args:
        callbacks: Those of `fit`, which begins without a backup.
        lengths: What `log_lengths` returned in the killed run, or b"".
        epoch: The first epoch, from 0.
    """
    try:
        known = json.loads(lengths)["logs"]
    except (ValueError, KeyError, TypeError):
        return
    for path, logger in _appending(callbacks):
        size, checksum = known.get(path, (None, None))
        content = _content(path)
        if (
            size is not None
            and size < len(content)
            and zlib.crc32(content[:size]) == checksum
        ):
            remove_rows_after(logger, size, epoch, most=1)


def log_lengths(callbacks: list[Any]) -> bytes:
    """Lengths and checksums of the files that rows are appended to, as JSON.

    b"" if there is no such file.
    """
    found = {}
    for path, _ in _appending(callbacks):
        content = _content(path)
        found[path] = len(content), zlib.crc32(content)
    return json.dumps({"logs": found}).encode() if found else b""


def _appending(callbacks: list[Any]) -> Iterator[tuple[str, Any]]:
    """The loggers that append to a file, and its path."""
    for callback in callbacks:
        if (
            isinstance(callback, keras.callbacks.CSVLogger)
            and callback.append
            and os.path.isfile(callback.filename)
        ):
            yield os.path.abspath(callback.filename), callback


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

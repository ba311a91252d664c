"""Removes rows of a `CSVLogger` whose epochs will be trained again.

A row is written before the backup of its epoch, so a kill may leave a row, or
half of one, that no backup knows. A backup holds a copy of the file. Before
the first backup, the lock file of the folder holds the length of the file.
"""

import json
import os
import pathlib
import warnings
import zlib

import keras
from keras.callbacks import CSVLogger

from keras_wake.utils.types import Json


def state_of(logger: CSVLogger) -> dict[str, Json] | None:
    """The whole file. With `append=False`, a logger empties it on resume."""
    try:
        with open(logger.filename, newline="") as file:
            return {"text": file.read(), "keys": logger.keys}
    except OSError:  # Not on a disk of this machine.
        return None


def set_state(logger: CSVLogger, state: dict[str, Json], epoch: int) -> None:
    """Restores the file to its state before the row of `epoch`."""
    logger.csv_file.flush()
    path = pathlib.Path(logger.filename)
    before = state["text"].encode(logger.csv_file.encoding)
    found = path.read_bytes()
    if found.startswith(before):
        _remove_rows(logger, len(before), epoch)
    elif logger.append and not before.startswith(found):
        warnings.warn(
            f"{path} is not the file of which the backup holds a copy. It is "
            "kept, and new rows are appended. There may be two rows of one "
            "epoch.",
            stacklevel=4,
        )
    else:
        path.write_bytes(before)
    _append(logger)
    keys = state["keys"]
    logger.keys = keys and [str(key) for key in keys]


def log_lengths(callbacks: list[keras.callbacks.Callback]) -> bytes:
    """Lengths and checksums of the files that rows are appended to, as JSON.

    Empty if there is no such file.
    """
    files = {path: _content(path) for path in _appending(callbacks)}
    found = {path: (len(c), zlib.crc32(c)) for path, c in files.items()}
    return json.dumps({"logs": found}).encode() if found else b""


def remove_unsaved_rows(
    callbacks: list[keras.callbacks.Callback], lengths: bytes, epoch: int
) -> None:
    """Removes the row of a run that was killed before its first backup.

    Args:
        callbacks: Those of `fit`, which begins without a backup.
        lengths: What `log_lengths` returned in the killed run, or nothing.
        epoch: The first epoch, from 0.
    """
    try:
        known = json.loads(lengths)["logs"]
    except (ValueError, KeyError, TypeError):
        return
    for path, logger in _appending(callbacks).items():
        size, checksum = known.get(path, (0, None))
        content = _content(path)
        same = zlib.crc32(content[:size]) == checksum
        if same and size < len(content):
            _remove_rows(logger, size, epoch, most=1)
            _append(logger)


def _remove_rows(
    logger: CSVLogger, size: int, epoch: int, most: int | None = None
) -> None:
    """Removes what a killed run wrote after byte `size`.

    Those are rows of `epoch` and the epochs after it, in order, at `most` so
    many. Other rows may belong to another run, and are kept.
    """
    rows = _content(logger.filename)[size:].split(b"\n")[:-1]
    if not size:
        del rows[:1]  # The header.
    numbers = [row.split(logger.sep.encode())[0] for row in rows]
    expected = [str(epoch + n).encode() for n in range(len(rows))]
    if numbers == expected and (most is None or len(rows) <= most):
        os.truncate(logger.filename, size)
        return
    warnings.warn(
        f"{logger.filename} has {len(rows)} rows that may belong to another "
        "run. They are kept, and new rows are appended.",
        stacklevel=5,
    )


def _append(logger: CSVLogger) -> None:
    """Has the next row written at the end of the file."""
    logger.csv_file.seek(0, os.SEEK_END)
    logger.append_header = not os.path.getsize(logger.filename)


def _appending(
    callbacks: list[keras.callbacks.Callback],
) -> dict[str, CSVLogger]:
    """The loggers that append to a file, by its path."""
    return {
        os.path.abspath(callback.filename): callback
        for callback in callbacks
        if isinstance(callback, CSVLogger)
        and callback.append
        and os.path.isfile(callback.filename)
    }


def _content(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()

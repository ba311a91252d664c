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

from keras.callbacks import Callback
from keras.callbacks import CSVLogger

from keras_wake.utils.types import Config


def state_of(logger: CSVLogger) -> Config | None:
    """The whole file. With `append=False`, a logger empties it on resume."""
    try:
        with open(logger.filename, newline="") as file:
            return {"text": file.read(), "keys": logger.keys}
    except OSError:  # Not on a disk of this machine.
        return None


def set_state(logger: CSVLogger, state: Config, epoch: int) -> None:
    """Restores the file to its state before the row of `epoch`."""
    logger.csv_file.flush()
    before = state["text"].encode(logger.csv_file.encoding)
    if before.startswith(_content(logger.filename)):
        pathlib.Path(logger.filename).write_bytes(before)
    else:
        _remove_rows(logger, before, epoch)
    _append(logger)
    logger.keys = state["keys"]


def log_lengths(callbacks: list[Callback]) -> bytes:
    """Lengths and checksums of the files that rows are appended to, as JSON.

    Empty if there is no such file.
    """
    files = {path: _content(path) for path in _appending(callbacks)}
    found = {path: (len(c), zlib.crc32(c)) for path, c in files.items()}
    return json.dumps({"logs": found}).encode() if found else b""


def remove_unsaved_rows(
    callbacks: list[Callback], lengths: bytes, epoch: int
) -> None:
    """Removes the row of a run that was killed before its first backup.

    `lengths` is what `log_lengths` returned in that run, or nothing; `epoch`
    the first one, from 0.
    """
    try:
        known = json.loads(lengths)["logs"]
    except (ValueError, KeyError, TypeError):
        return
    for path, logger in _appending(callbacks).items():
        size, checksum = known.get(path, (0, None))
        content = _content(path)
        before = content[:size]
        if zlib.crc32(before) == checksum and before != content:
            _remove_rows(logger, before, epoch, most=1)
            _append(logger)


def _remove_rows(
    logger: CSVLogger, before: bytes, epoch: int, most: int | None = None
) -> None:
    """Removes what a killed run wrote after `before`.

    Those are rows of `epoch` and the epochs after it, in order, at `most` so
    many. Other rows may belong to another run, and are kept.
    """
    content = _content(logger.filename)
    rows = content[len(before) :].split(b"\n")[:-1]
    if not before:
        del rows[:1]  # The header.
    numbers = [row.split(logger.sep.encode())[0] for row in rows]
    expected = [str(epoch + n).encode() for n in range(len(rows))][:most]
    if content.startswith(before) and numbers == expected:
        os.truncate(logger.filename, len(before))
        return
    warnings.warn(
        f"{logger.filename} has rows that may belong to another run. They are "
        "kept, and new rows are appended. There may be two rows of one epoch.",
        stacklevel=5,
    )


def _append(logger: CSVLogger) -> None:
    """Moves to the end of the file, where the next row goes."""
    logger.csv_file.seek(0, os.SEEK_END)
    logger.append_header = not os.path.getsize(logger.filename)


def _appending(callbacks: list[Callback]) -> dict[str, CSVLogger]:
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

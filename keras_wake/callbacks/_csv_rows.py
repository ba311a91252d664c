"""The rows of a `CSVLogger` whose epochs will come again, taken back.

A row is written before the backup of its epoch, so a kill may leave one that
no backup knows, or half of it.
"""

import json
import os
import warnings
import zlib
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
        cut(logger, size, epoch)
    else:
        with open(logger.filename, "w", newline="") as file:
            file.write(state["text"])
        _go_on_at_the_end(logger)
    logger.keys = state["keys"]


def cut(logger: Any, size: int, epoch: int, most: int | None = None) -> None:
    """Takes what a killed run has written behind `size` off the file.

    Those are rows of `epoch` and the epochs after it, in order. Any others
    are of another run, and stay.

    Args:
        logger: A `CSVLogger` whose file is open.
        size: Length of the file before them, in bytes.
        epoch: The first epoch that will come again, from 0.
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
            f"{logger.filename} has {len(rows)} rows that are not of this "
            "run, or not all of them: they stay, and this run's follow.",
            stacklevel=4,
        )
    else:
        os.truncate(logger.filename, size)
    _go_on_at_the_end(logger)


def _go_on_at_the_end(logger: Any) -> None:
    # Where the next row goes if the file is not appended to.
    logger.csv_file.seek(0, os.SEEK_END)
    logger.append_header = not os.path.getsize(logger.filename)


def lengths(callbacks: list[Any], before: Any, epoch: int) -> bytes:
    """How long the files are to which rows are appended, before the first row.

    Called when training begins without a backup.

    Args:
        callbacks: Those of `fit`.
        before: What this function returned in a run that was killed before
            its first backup: its row goes.
        epoch: The first epoch, from 0.
    """
    try:
        known = json.loads(before)["logs"]
    except (ValueError, KeyError, TypeError):
        known = {}
    found = {}
    for logger in callbacks:
        if not isinstance(logger, keras.callbacks.CSVLogger):
            continue
        if not logger.append or not os.path.isfile(logger.filename):
            continue
        key = os.path.abspath(logger.filename)
        size, checksum = known.get(key, (None, None))
        with open(logger.filename, "rb") as file:
            content = file.read()
        if (
            size is not None
            and size < len(content)
            and zlib.crc32(content[:size]) == checksum
        ):
            cut(logger, size, epoch, most=1)
            content = content[: os.path.getsize(logger.filename)]
        found[key] = len(content), zlib.crc32(content)
    return json.dumps({"logs": found}).encode() if found else b""

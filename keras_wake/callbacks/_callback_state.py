"""What a callback has to remember over a restart of the process.

A callback that has `get_state()` and `set_state(state)` decides that itself;
for those of Keras, which have not, it is listed here.
"""

import os
from typing import Any

import keras

_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.EarlyStopping: (
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
        "wait",
    ),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}


def state_of(callback: Any) -> Any:
    """The state of a callback, or None if it has none."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _csv_state(callback)
    names = _names(callback)
    return {name: getattr(callback, name) for name in names} or None


def set_state(callback: Any, state: Any) -> None:
    """Brings a callback back to a state, after its `on_train_begin`.

    One that has stopped the training stops it again.
    """
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        _set_csv_state(callback, state)
    else:
        for name in _names(callback):
            setattr(callback, name, state[name])
        stops = isinstance(callback, keras.callbacks.EarlyStopping)
        if (
            stops
            and callback.stopped_epoch
            and (callback.wait >= callback.patience)
        ):
            callback.model.stop_training = True


def _names(callback: Any) -> tuple[str, ...]:
    kinds = (kind for kind in _REMEMBERED if isinstance(callback, kind))
    return _REMEMBERED.get(next(kinds, object), ())


def _csv_state(logger: Any) -> dict[str, Any] | None:
    """The whole file, so that one that is not appended to comes back, too.

    Rows of epochs that will come again, or half a row, go with it.
    """
    try:
        with open(logger.filename, newline="") as file:
            text = file.read()
    except OSError:  # Not on a disk of this machine.
        return None
    return {"text": text, "keys": logger.keys}


def _set_csv_state(logger: Any, state: dict[str, Any]) -> None:
    logger.csv_file.flush()
    with open(logger.filename, newline="") as file:
        found = file.read()
    size = len(state["text"].encode(logger.csv_file.encoding))
    if found.startswith(state["text"]):
        os.truncate(logger.filename, size)
    else:
        with open(logger.filename, "w", newline="") as file:
            file.write(state["text"])
    # Where the next row goes if the file is not appended to.
    logger.csv_file.seek(0, os.SEEK_END)
    logger.append_header = not state["text"]
    logger.keys = state["keys"]

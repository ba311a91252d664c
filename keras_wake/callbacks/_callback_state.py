"""What a callback has to remember over a restart of the process.

A callback that has `get_state()` and `set_state(state)` decides that itself;
for those of Keras, which have not, it is listed here.
"""

import inspect
import os
import warnings
from typing import Any

import keras

from keras_wake import _architecture
from keras_wake.callbacks import _csv_rows
from keras_wake.callbacks._input_guard import InputGuard

# Arguments that say where something goes, or how it looks, and do not change
# what a run computes.
_WHERE = ("filepath", "filename", "log_dir", "path", "class_names", "verbose")
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


def described(part: Any) -> str:
    """An attack, a schedule or the like as a text that can be compared."""
    config = part.get_config() if hasattr(part, "get_config") else {}
    return f"{type(part).__name__} {config}"


def given_to(callback: Any) -> dict[str, Any]:
    """The arguments of a callback that it keeps under their names.

    Numbers and texts as they are, parts of a model by their settings; arrays
    and functions are left out.
    """
    found = {}
    for name in inspect.signature(type(callback).__init__).parameters:
        value = _comparable(vars(callback).get(name))
        if value is not None:
            found[name] = value
    if isinstance(callback, keras.callbacks.EarlyStopping):
        # Turned around once it is known which direction is better.
        found["min_delta"] = abs(callback.min_delta)
    return found


def _comparable(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, keras.Model):
        return f"{type(value).__name__} {_architecture.architecture(value)}"
    if isinstance(value, (list, tuple)):
        items = [_comparable(item) for item in value]
        return None if None in items else items
    if hasattr(value, "get_config"):
        return described(value)
    return value if _architecture.is_plain(value) else None


def differences(
    name: str, there: dict[str, Any], here: dict[str, Any]
) -> list[str]:
    """What a callback was given that differs, in words."""
    return [
        f"`{name}({key}=)`: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in dict.fromkeys([*there, *here])
        if key not in _WHERE and there.get(key) != here.get(key)
    ]


def hand_out(
    callbacks: list[Any],
    here: list[list[Any]],
    state: dict[str, Any],
    folder: Any,
) -> dict[int, int]:
    """Gives each callback its state of a backup.

    Args:
        callbacks: Those of this `fit`, which has begun.
        here: `callbacks` of its record.
        state: What the backup holds.
        folder: The `BackupFolder` that it is from.

    Returns:
        Which callback is which one of the backup; -1 for one of which it has
        been said that it is none of them.
    """
    states, record = state["callbacks"], state.get("record")
    there: list[Any] = [(name, None) for name, _ in states]
    if record is not None:
        there = [entry[:2] for entry in record["callbacks"]]
    pairs = matched(there, [(name, given) for name, given, _ in here])
    known = {name for name, _ in states}
    for number, callback in enumerate(callbacks):
        name = type(callback).__name__
        if number in pairs:
            found = states[pairs[number]][1]
            if found is not None:
                with folder.using(f"of `{name}`"):
                    set_state(callback, found, state["epoch"])
        elif state_of(callback) is not None:
            pairs[number] = -1
            which = f"knows no {name}, which was not there when it was made"
            if name in known:
                which = f"has a `{name}`, but not clearly this one"
            warnings.warn(
                f"The backup {folder.newest} {which}: it starts anew.",
                stacklevel=4,
            )
    return pairs


def matched(
    there: list[tuple[str, dict[str, Any] | None]],
    here: list[tuple[str, dict[str, Any]]],
) -> dict[int, int]:
    """Which callback of now is which one of a backup.

    It is the one of the same class that was given the same. Where there is
    none, it is the one of its class that monitors the same and writes a file
    of the same name, if only one does. So none takes over the best value that
    another one has found.

    Args:
        there: Class and arguments of each callback of the backup; None for
            arguments that an older backup has not noted.
        here: The same of this `fit`.

    Returns:
        For the numbers of callbacks of now, the number in the backup.
    """
    pairs: dict[int, int] = {}
    keys: tuple[Any, ...] = (_exactly, _kind)
    if any(given is None for _, given in there):
        keys = (lambda name, given: name,)
    for key in keys:
        old: dict[Any, list[int]] = {}
        new: dict[Any, list[int]] = {}
        for groups, listed, taken in (
            (old, there, set(pairs.values())),
            (new, here, set(pairs)),
        ):
            for number, each in enumerate(listed):
                if number not in taken:
                    groups.setdefault(key(*each), []).append(number)
        for group, numbers in new.items():
            # The second key would take two of a kind in any order.
            most = 1 if key is _kind else len(numbers)
            if len(numbers) == len(old.get(group, [])) <= most:
                pairs.update(zip(numbers, old[group], strict=True))
    return pairs


def _exactly(name: str, given: dict[str, Any]) -> tuple[str, str]:
    return name, repr(sorted(given.items()))


def _kind(name: str, given: dict[str, Any]) -> tuple[str, ...]:
    """What one of its class must have in common with another, to be it."""
    paths = (given.get(key) for key in ("filepath", "filename", "log_dir"))
    files = [os.path.basename(path) for path in paths if isinstance(path, str)]
    return (name, str(given.get("monitor")), *files)


def counts(callback: Any) -> bool:
    """Whether a run is another one without this callback.

    One of the user's own without a state may do anything, or just print.
    """
    if hasattr(callback, "get_state"):
        return True
    passive = (
        InputGuard,
        keras.callbacks.History,
        keras.callbacks.LambdaCallback,
        keras.callbacks.ProgbarLogger,
    )
    module = type(callback).__module__.partition(".")[0]
    return module in ("keras", "keras_wake") and not isinstance(
        callback, passive
    )


def state_of(callback: Any) -> Any:
    """The state of a callback, or None if it has none."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _csv_rows.state_of(callback)
    names = _names(callback)
    return {name: getattr(callback, name) for name in names} or None


def set_state(callback: Any, state: Any, epoch: int) -> None:
    """Brings a callback back to a state, after its `on_train_begin`.

    One that has stopped the training stops it again.

    Args:
        callback: The callback.
        state: What `state_of` has returned.
        epoch: Number of the epoch that comes next, from 0.
    """
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        _csv_rows.set_state(callback, state, epoch)
    else:
        fresh = getattr(callback, "best", None)
        for name in _names(callback):
            setattr(callback, name, state[name])
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            _forget_a_lost_file(callback, fresh)
        stops = isinstance(callback, keras.callbacks.EarlyStopping)
        if (
            stops
            and callback.stopped_epoch
            and (callback.wait >= callback.patience)
        ):
            callback.model.stop_training = True


def _forget_a_lost_file(checkpoint: Any, fresh: Any) -> None:
    """Has the best model be saved again where its file is missing."""
    path = os.fspath(checkpoint.filepath)
    if not checkpoint.save_best_only or checkpoint.best in (None, fresh):
        return
    if "{" in path or "://" in path or os.path.exists(path):
        return
    warnings.warn(
        f"`ModelCheckpoint` has saved a best model ({checkpoint.monitor}: "
        f"{checkpoint.best:g}), and there is no file {path}: it starts anew, "
        "with the next epoch.",
        stacklevel=4,
    )
    checkpoint.best = fresh


def _names(callback: Any) -> tuple[str, ...]:
    kinds = (kind for kind in _REMEMBERED if isinstance(callback, kind))
    return _REMEMBERED.get(next(kinds, object), ())

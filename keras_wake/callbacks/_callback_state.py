"""The states of callbacks in a backup: collected, matched and restored.

A callback with `get_state()` and `set_state(state)` decides itself what its
state is. Those of Keras have no such methods: theirs is listed here.
"""

import inspect
import os
import warnings
from typing import Any

import keras
import numpy as np

from keras_wake.backend import layer_settings
from keras_wake.callbacks import _csv_rows
from keras_wake.checkpoint import architecture
from keras_wake.checkpoint import layer_records
from keras_wake.training.guard import InputGuard

# Arguments that say where something goes, or how it looks, and do not change
# what a run computes.
_WHERE = ("filepath", "filename", "log_dir", "path", "class_names", "verbose")
# Callbacks that never stop a run.
_NEVER_STOP = (
    *("InputGuard", "History", "ProgbarLogger", "CSVLogger", "TensorBoard"),
    *("ModelCheckpoint", "ReduceLROnPlateau", "LearningRateScheduler"),
    *("EMATeacher", "PretrainedTeacher", "StochasticWeightAveraging"),
    *("CrossClassAttribution", "AutoAttackEvaluation"),
)
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
    config = dict(part.get_config()) if hasattr(part, "get_config") else {}
    if type(part).__module__.partition(".")[0] not in ("keras", "keras_wake"):
        # A class of the user's own may inherit a `get_config`.
        for name, value in getattr(part, "__dict__", {}).items():
            value = layer_records.comparable(value)
            if not name.startswith("_") and value is not None:
                config.setdefault(name, value)
    return f"{type(part).__name__} {config}"


def arguments_of(callback: Any) -> dict[str, Any]:
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
        return f"{type(value).__name__} {architecture.architecture(value)}"
    if isinstance(value, (list, tuple)):
        items = [_comparable(item) for item in value]
        return None if None in items else items
    if hasattr(value, "get_config"):
        return described(value)
    return value if layer_settings.is_plain(value) else None


def differences(
    name: str, saved: dict[str, Any], current: dict[str, Any]
) -> list[str]:
    """The arguments of a callback that have changed, as text."""
    return [
        f"`{name}({key}=)`: {saved.get(key)!r} in the backup, "
        f"{current.get(key)!r} in this script"
        for key in layer_records.differing(saved, current)
        if key not in _WHERE
    ]


def restore_states(
    callbacks: list[Any],
    current: list[list[Any]],
    state: dict[str, Any],
    folder: Any,
) -> dict[int, int]:
    """Gives each callback its state of a backup.

    Args:
        callbacks: Those of this `fit`, which has begun.
        current: `callbacks` of its record.
        state: What the backup holds.
        folder: The `BackupFolder` that it is from.

    Returns:
        For the index of each callback, its index in the backup; -1 for a
        callback that is not in the backup and has been warned about.
    """
    states, record = state["callbacks"], state.get("record")
    saved: list[Any] = [(name, None) for name, _ in states]
    if record is not None:
        saved = [entry[:2] for entry in record["callbacks"]]
    pairs = match_callbacks(
        saved, [(name, given) for name, given, _ in current]
    )
    known = {name for name, _ in states}
    for number, callback in enumerate(callbacks):
        name = type(callback).__name__
        if number in pairs:
            found = states[pairs[number]][1]
            if found is not None:
                with folder.explaining_errors(f"of `{name}`"):
                    set_state(callback, found, state["epoch"])
        elif state_of(callback) is not None:
            pairs[number] = -1
            what = (
                f"The backup {folder.newest} has no state of `{name}`, so it "
                "starts from scratch."
            )
            if name in known:
                what = (
                    f"No `{name}` in the backup {folder.newest} clearly "
                    "matches this one, so this one starts from scratch."
                )
            warnings.warn(what, stacklevel=4)
    return pairs


def stopper_has_changed(
    state: dict[str, Any], current: list[list[Any]], pairs: dict[int, int]
) -> bool:
    """Whether what may have stopped a run is set otherwise now, or left out.

    Args:
        state: What the backup holds.
        current: `callbacks` of the record of this `fit`.
        pairs: What `restore_states` has returned.
    """
    record = state.get("record")
    if record is None or not state.get("stopped", False):
        return False
    # `EarlyStopping` remembers whether it was the one.
    stopped = [
        number
        for number, (_, own) in enumerate(state["callbacks"])
        if isinstance(own, dict) and own.get("stopped_epoch")
    ]
    found = {saved: number for number, saved in pairs.items()}
    for number, (name, before, _) in enumerate(record["callbacks"]):
        if number not in stopped and (stopped or name in _NEVER_STOP):
            continue
        if number not in found:
            return True
        if differences(name, before, current[found[number]][1]):
            return True
    return False


def undo_stop(callbacks: list[Any]) -> None:
    """Lets a run go on that was stopped; what was counted is kept."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping):
            callback.stopped_epoch = 0


def match_callbacks(
    saved: list[tuple[str, dict[str, Any] | None]],
    current: list[tuple[str, dict[str, Any]]],
) -> dict[int, int]:
    """Matches the callbacks of this `fit` with those of a backup.

    By class and arguments; if no match is found, by class, `monitor` and file
    name, if only one callback on each side has them. So none takes over the
    best value that another one has found.

    Args:
        saved: Class and arguments of each callback of the backup; None for
            arguments that an older backup has not stored.
        current: The same of this `fit`.

    Returns:
        For the index of each callback that has a match, the index of its
        match in the backup.
    """
    if any(given is None for _, given in saved):
        return _pairs_by(_by_class, saved, current, {})
    pairs = _pairs_by(_by_arguments, saved, current, {})
    return pairs | _pairs_by(
        _by_monitor_and_file, saved, current, pairs, only_single=True
    )


def _pairs_by(
    key: Any,
    saved: list[Any],
    current: list[Any],
    pairs: dict[int, int],
    only_single: bool = False,
) -> dict[int, int]:
    """Pairs of callbacks with the same key that are in none of `pairs` yet.

    Several with one key are paired in their order if there are as many of
    them in the backup, unless `only_single`.
    """
    old = _grouped(key, saved, set(pairs.values()))
    new = _grouped(key, current, set(pairs))
    found: dict[int, int] = {}
    for group, numbers in new.items():
        partners = old.get(group, [])
        if only_single and len(numbers) > 1:
            continue
        if len(numbers) == len(partners):
            found.update(zip(numbers, partners, strict=True))
    return found


def _grouped(
    key: Any, callbacks: list[Any], taken: set[int]
) -> dict[Any, list[int]]:
    """The indices of the callbacks that are not `taken`, for each key."""
    groups: dict[Any, list[int]] = {}
    for number, (name, given) in enumerate(callbacks):
        if number not in taken:
            groups.setdefault(key(name, given), []).append(number)
    return groups


def _by_class(name: str, given: Any) -> str:
    return name


def _by_arguments(name: str, given: dict[str, Any]) -> tuple[str, str]:
    return name, repr(sorted(given.items()))


def _by_monitor_and_file(name: str, given: dict[str, Any]) -> tuple[str, ...]:
    paths = (given.get(key) for key in ("filepath", "filename", "log_dir"))
    files = [os.path.basename(path) for path in paths if isinstance(path, str)]
    return (name, str(given.get("monitor")), *files)


def affects_training(callback: Any) -> bool:
    """Whether leaving out this callback changes the run.

    One of the user's own without a state may do anything, or only print; it
    counts as one that does not.
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
            _check_kind(name, state[name])
            setattr(callback, name, state[name])
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            _forget_best_if_file_is_missing(callback, fresh)
        stops = isinstance(callback, keras.callbacks.EarlyStopping)
        if (
            stops
            and callback.stopped_epoch
            and (callback.wait >= callback.patience)
        ):
            callback.model.stop_training = True


def _check_kind(name: str, value: Any) -> None:
    """Refuses what would make a callback of Keras fail in a later epoch."""
    if name == "history":
        sound = isinstance(value, dict) and all(
            isinstance(each, list) for each in value.values()
        )
    elif name in ("epoch", "best_weights"):
        sound = isinstance(value, list) or (name != "epoch" and value is None)
    else:
        sound = value is None or isinstance(value, (int, float, np.generic))
    if not sound:
        raise TypeError(f"`{name}` is {value!r}")


def _forget_best_if_file_is_missing(checkpoint: Any, fresh: Any) -> None:
    """Forgets the best score if its file is missing.

    Then the model of the next epoch is saved.
    """
    path = os.fspath(checkpoint.filepath)
    if not checkpoint.save_best_only or checkpoint.best in (None, fresh):
        return
    if "{" in path or "://" in path or os.path.exists(path):
        return
    warnings.warn(
        f"The file {path} of the best model ({checkpoint.monitor}: "
        f"{checkpoint.best:g}) is missing. `ModelCheckpoint` starts from "
        "scratch and saves the next epoch.",
        stacklevel=4,
    )
    checkpoint.best = fresh


def _names(callback: Any) -> tuple[str, ...]:
    kinds = (kind for kind in _REMEMBERED if isinstance(callback, kind))
    return _REMEMBERED.get(next(kinds, object), ())

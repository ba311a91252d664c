"""The states of callbacks in a backup: collected, matched and restored.

A callback with `get_state()` and `set_state(state)` decides itself what its
state is. The callbacks of Keras have no such methods: theirs is listed here.
"""

import inspect
import os
import warnings

import keras
from keras.callbacks import Callback

from keras_wake.backend import keras_compat
from keras_wake.backend import layer_settings
from keras_wake.checkpoint import architecture
from keras_wake.checkpoint import csv_rows
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json

# Arguments that say where something goes, or how it looks, and do not change
# what a run computes.
_OUTPUT_ARGUMENTS = (
    *("filepath", "filename", "log_dir", "path", "class_names", "verbose"),
)
# Callbacks that neither change nor stop a run.
_PASSIVE = ("InputGuard", "History", "ProgbarLogger")
_ATTRIBUTES: dict[type[Callback], tuple[str, ...]] = {
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.EarlyStopping: (
        *("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    ),
    keras.callbacks.ModelCheckpoint: ("best",),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
}


def described(part: object) -> str:
    """An attack, a schedule or the like as a text that can be compared."""
    config = dict(part.get_config()) if hasattr(part, "get_config") else {}
    if type(part).__module__.partition(".")[0] not in ("keras", "keras_wake"):
        # A class of the user's own may inherit a `get_config`.
        for name, value in getattr(part, "__dict__", {}).items():
            value = architecture.comparable(value)
            if not name.startswith("_") and value is not None:
                config.setdefault(name, value)
    return f"{type(part).__name__} {config}"


def arguments_of(callback: Callback) -> Config:
    """The arguments of a callback, without arrays and functions."""
    found = {}
    for name in inspect.signature(type(callback).__init__).parameters:
        value = _comparable(vars(callback).get(name))
        if value is not None:
            found[name] = value
    if isinstance(callback, keras.callbacks.EarlyStopping):
        # Keras changes its sign, depending on which direction is better.
        found["min_delta"] = abs(callback.min_delta)
    return found


def _comparable(value: object) -> Json:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, keras.Model):
        return f"{type(value).__name__} {architecture.layers_digest(value)}"
    if isinstance(value, (list, tuple)):
        items = [_comparable(item) for item in value]
        return None if None in items else items
    if hasattr(value, "get_config"):
        return described(value)
    return value if layer_settings.is_plain(value) else None


def match_callbacks(
    states: list[Json], saved: list[Json], current: list[Json]
) -> dict[int, int]:
    """Matches the callbacks of this `fit` with those of a backup.

    By class and arguments, in their order if there are as many on each side;
    if no match is found, by class, `monitor` and file name, if only one
    callback on each side has them. So none takes over the best value that
    another one has found.

    Args:
        states: `callbacks` of the backup.
        saved: `callbacks` of its record.
        current: Those of the record of this `fit`.

    Returns:
        For the index of each callback that has a match, that of its match.
    """
    if [name for name, _ in states] != [name for name, _, _ in saved]:
        raise ValueError("it has the states of other callbacks")
    pairs: dict[int, int] = {}
    for key, most in ((_class_and_arguments, len(current)), (_purpose, 1)):
        # Without those that have a match already.
        taken = set(pairs.values())
        old = [n not in taken and key(*each) for n, each in enumerate(saved)]
        new = [n not in pairs and key(*each) for n, each in enumerate(current)]
        for number, own in enumerate(new):
            if own and new.count(own) == old.count(own) <= most:
                matches = [n for n, other in enumerate(old) if other == own]
                pairs[number] = matches[new[:number].count(own)]
    return pairs


def _class_and_arguments(name: str, given: Config, affects: bool) -> list[Json]:
    return [name, given]


def _purpose(name: str, given: Config, affects: bool) -> list[Json]:
    paths = (given.get(key) for key in ("filepath", "filename", "log_dir"))
    files = [os.path.basename(path) for path in paths if isinstance(path, str)]
    return [name, given.get("monitor"), files]


def changed(
    saved: list[Json], current: list[Json], pairs: dict[int, int]
) -> list[str]:
    """What is other than in the backup, as text; arguments as above."""
    words: list[str] = []
    for number, (name, given, affects) in enumerate(current):
        if affects and number in pairs:
            words += _changed_arguments(name, saved[pairs[number]][1], given)
        elif affects:
            words.append(
                f"no `{name}` of the backup clearly matches the one in this "
                "script, which starts from scratch"
            )
    for number, (name, _, affects) in enumerate(saved):
        if affects and number not in pairs.values():
            words.append(f"`{name}` is missing in this script")
    return words


def _changed_arguments(name: str, saved: Config, current: Config) -> list[str]:
    found = architecture.differences(saved, current, f"`{name}({{}}=)`")
    return [text for key, text in found.items() if key not in _OUTPUT_ARGUMENTS]


def stoppers(state: Config) -> list[int]:
    """The indices of the callbacks that know that they stopped the run."""
    records = state["record"]["callbacks"]
    return [
        number
        for number, (_, own) in enumerate(state["callbacks"])
        if isinstance(own, dict)
        and (
            own.get("stopped_epoch")
            or (
                own.get("collapsed")
                and records[number][1].get("action") != "warn"
            )
        )
    ]


def stopper_has_changed(
    state: Config, current: list[Json], pairs: dict[int, int]
) -> bool:
    """Whether the callback that stopped a run has other arguments, or is gone.

    If none knows that it was the one, any callback may have been. `current`
    is `callbacks` of the record of this `fit`.
    """
    stopped = stoppers(state)
    found = {saved: number for number, saved in pairs.items()}
    return any(
        number not in found
        or bool(_changed_arguments(name, before, current[found[number]][1]))
        for number, (name, before, _) in enumerate(state["record"]["callbacks"])
        if (number in stopped if stopped else name not in _PASSIVE)
    )


def affects_training(callback: Callback) -> bool:
    """Whether the run changes if this callback is left out.

    One of the user's own without a state may do anything, or only print. It
    counts as one that does not affect training.
    """
    if hasattr(callback, "get_state"):
        return True
    kind = type(callback)
    return (
        kind.__module__.partition(".")[0] in ("keras", "keras_wake")
        and kind.__name__ not in _PASSIVE
        and kind is not keras.callbacks.LambdaCallback
    )


def state_of(callback: Callback) -> Json:
    """The state of a callback, or None if it has none."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return csv_rows.state_of(callback)
    return {name: getattr(callback, name) for name in _names(callback)} or None


def set_state(callback: Callback, state: Json, epoch: int) -> None:
    """Restores what `state_of` has returned; the next epoch is `epoch`."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        csv_rows.set_state(callback, state, epoch)
    else:
        initial = getattr(callback, "best", None)
        for name in _names(callback):
            setattr(callback, name, state[name])
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            _forget_best_if_file_is_missing(callback, initial)


def _forget_best_if_file_is_missing(
    checkpoint: keras.callbacks.ModelCheckpoint, initial: float | None
) -> None:
    """Forgets the best score if its file is missing, so that one is saved."""
    path = os.fspath(checkpoint.filepath)
    is_local_file = "{" not in path and "://" not in path
    has_best = checkpoint.save_best_only and checkpoint.best != initial
    if not has_best or not is_local_file or os.path.exists(path):
        return
    warnings.warn(
        f"The file {path} of the best model ({checkpoint.monitor}: "
        f"{checkpoint.best:g}) is missing. `ModelCheckpoint` starts from "
        "scratch and saves the next epoch.",
        stacklevel=4,
    )
    checkpoint.best = initial


def _names(callback: Callback) -> tuple[str, ...]:
    """The attributes of a callback of Keras that are its state."""
    kinds = [*_ATTRIBUTES.items(), *keras_compat.COUNTERS.items()]
    return tuple(n for k, ns in kinds if isinstance(callback, k) for n in ns)

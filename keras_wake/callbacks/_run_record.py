"""The settings of a run, stored in its backup and compared when it resumes.

The network and the class of the optimizer must be the same. All other settings
may change: those of the script are used, and a warning names what has changed.
"""

import json
from typing import Any

import keras
import numpy as np

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.backend import layer_settings
from keras_wake.callbacks import _callback_state
from keras_wake.callbacks import _variables
from keras_wake.checkpoint import layer_records
from keras_wake.checkpoint import snapshot

# An optimizer has additional variables if one of these is set. Backups of
# earlier versions do not say which variable a value belongs to.
_ADDING_VARIABLES = (
    *("momentum", "use_ema", "amsgrad", "centered"),
    "gradient_accumulation_steps",
)


def run_record(
    model: Any, callbacks: list[Any], batches: dict[str, Any]
) -> dict[str, Any]:
    """The settings of this script, before anything is restored.

    Args:
        model: Compiled `WakeModel`.
        callbacks: Those of the run, as the user gave them.
        batches: How `fit` divides the data into batches.
    """
    name, config = _optimizer(model.optimizer)
    record = {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "layers": layer_records.layer_records(model.classifier),
        "graphs": layer_records.graph_records(model.classifier),
        "optimizer": name,
        "hyperparameters": config,
        "learning_rate": _learning_rate(model.optimizer),
        "batches": batches,
        "callbacks": [
            [
                type(callback).__name__,
                _callback_state.arguments_of(callback),
                _callback_state.affects_training(callback),
            ]
            for callback in callbacks
        ],
    }
    # As it comes back from a file.
    return json.loads(json.dumps(record))


def with_positions(record: dict[str, Any], model: Any) -> dict[str, Any]:
    """The record for a backup, of a model whose optimizer has been built."""
    return {
        **record,
        # Which of the values of `_snapshot.take` the learning rate is.
        "learning_rate_at": _rate_position(model),
        "variables": _variables.keys_of(model),
    }


def settings_of(model: Any) -> dict[str, str]:
    """What a `WakeModel` is made with, in a comparable form."""
    found = {
        name: repr(getattr(model, name))
        for name in ("temperature", "scale_distillation", "seed")
    }
    for name in ("attack", "eval_attack", "objective", "schedule"):
        found[name] = _callback_state.described(getattr(model, name))
    return found


def refusals(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The differences because of which a run cannot go on, as text."""
    words, _ = _layers(saved, current)
    if not words and "graphs" in saved:
        words = layer_records.compare_graphs(
            saved["graphs"], current["graphs"], _is_strict(saved, current)
        )
    old, new = saved["optimizer"], current["optimizer"]
    if old != new:
        return [
            *words,
            f"the optimizer is {old} in the backup and {new} in this script",
        ]
    if "variables" in saved:
        return words
    old, new = saved["hyperparameters"], current["hyperparameters"]
    return words + [
        f"the optimizer's `{name}` is {old[name]!r} in the backup and "
        f"{new[name]!r} in this script, which changes the variables of the "
        "optimizer"
        for name in _ADDING_VARIABLES
        if name in old and name in new and bool(old[name]) != bool(new[name])
    ]


def differences(
    saved: dict[str, Any],
    current: dict[str, Any],
    pairs: dict[int, int],
    all_callbacks: bool,
) -> list[str]:
    """The settings that have changed, as text.

    Args:
        saved: `settings` and `record` of a backup.
        current: The same of this `fit`.
        pairs: What `_callback_state.restore_states` has returned.
        all_callbacks: Whether this process runs all callbacks, so that a
            missing one was left out by the user. (Workers other than the
            chief run fewer.)
    """
    words = _changed("", saved.get("settings", {}), current["settings"])
    old, new = saved.get("record"), current["record"]
    if old is None:
        return words
    words += _layers(old, new)[1]
    name, part = new["optimizer"], "hyperparameters"
    words += _changed(f"{name} ", old[part], new[part])
    words += _changed("", old["batches"], new["batches"])
    words += _changed_callbacks(
        old["callbacks"], new["callbacks"], pairs, all_callbacks
    )
    if old["backend"] != new["backend"]:
        words.append(
            f"backend: {old['backend']} in the backup, {new['backend']} in "
            "this script, which draws other dropout masks"
        )
    return words


def _changed(
    prefix: str, saved: dict[str, Any], current: dict[str, Any]
) -> list[str]:
    return [
        f"{prefix}{name}: {_text(saved[name])} in the backup, "
        f"{_text(current[name])} in this script"
        for name in layer_records.differing(saved, current, strict=False)
    ]


def _changed_callbacks(
    saved: list[list[Any]],
    current: list[list[Any]],
    pairs: dict[int, int],
    all_callbacks: bool,
) -> list[str]:
    words: list[str] = []
    for number, saved_number in pairs.items():
        name, given, affects = current[number]
        if affects and saved_number >= 0:
            before = saved[saved_number][1]
            words += _callback_state.differences(name, before, given)
    words += [
        f"`{name}` is new in this script"
        for number, (name, _, affects) in enumerate(current)
        if affects and number not in pairs
    ]
    if all_callbacks:
        words += [
            f"`{name}` is missing in this script"
            for number, (name, _, affects) in enumerate(saved)
            if affects and number not in pairs.values()
        ]
    return words


def _layers(
    saved: dict[str, Any], current: dict[str, Any]
) -> tuple[list[str], list[str]]:
    return layer_records.compare_layers(
        saved["layers"], current["layers"], _is_strict(saved, current)
    )


def _is_strict(saved: dict[str, Any], current: dict[str, Any]) -> bool:
    return all(saved[name] == current[name] for name in ("keras", "backend"))


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer within one that scales the loss, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _optimizer(optimizer: Any) -> tuple[str, dict[str, Any]]:
    """Its class and its settings, but for the learning rate."""
    inner = _unwrapped(optimizer)
    name = type(inner).__name__
    if inner is not optimizer:
        name = f"{type(optimizer).__name__}({name})"
    config = {
        key: value if layer_settings.is_plain(value) else repr(value)
        for key, value in {
            **optimizer.get_config(),
            **inner.get_config(),
        }.items()
        if key not in ("name", "learning_rate", "inner_optimizer")
    }
    return name, config


def _rate_variable(optimizer: Any) -> Any:
    """The variable of the learning rate; None where it is a schedule."""
    rate = keras_compat.initial_rate(_unwrapped(optimizer))
    return rate if isinstance(rate, keras.Variable) else None


def _learning_rate(optimizer: Any) -> Any:
    """A number, or the text of a schedule."""
    variable = _rate_variable(optimizer)
    if variable is not None:
        return float(backend.to_numpy(variable))
    rate = keras_compat.initial_rate(_unwrapped(optimizer))
    return _callback_state.described(rate)


def _rate_position(model: Any) -> int | None:
    """Position of the learning rate in `_snapshot.variables_of(model)`."""
    variable = _rate_variable(model.optimizer)
    # It comes before the variables that `build` adds.
    for position, each in enumerate(model.optimizer.variables):
        if each is variable:
            return len(model.variables) + position
    return None


def restore(
    model: Any, values: list[Any], record: dict[str, Any] | None
) -> list[str]:
    """Restores the variables of a model.

    Keeps the learning rate of the backup, which a callback may have changed,
    if the script still gives the rate with which the run began; else uses the
    script's.

    Args:
        model: The `WakeModel`.
        values: Those of the backup.
        record: That of the backup, whose learning rate becomes the one with
            which the run goes on; None if the backup has no record.

    Returns:
        Both rates, as text, if the script's is used, and what of the
        optimizer begins anew.

    Raises:
        ValueError: If the values are those of another model or optimizer.
    """
    if record is None:
        snapshot.put_back(model, values)
        return []
    snapshot.variables_of(model)  # Builds the optimizer.
    rate = _learning_rate(model.optimizer)
    saved_position = record["learning_rate_at"]
    saved_rate = None
    if saved_position is not None:
        saved_rate = float(np.ravel(values[saved_position])[0])
    words = []
    if "variables" in record:
        words = _restore_by_key(model, values, record)
    else:
        position = _rate_position(model)
        snapshot.put_back(
            model, _aligned(values, saved_position, position, rate)
        )
    return words + _set_learning_rate(model.optimizer, record, saved_rate, rate)


def _restore_by_key(
    model: Any, values: list[Any], record: dict[str, Any]
) -> list[str]:
    before = record["hyperparameters"]
    _, now = _optimizer(model.optimizer)
    kept = []
    if before.get("initial_scale") != now.get("initial_scale"):
        kept.append("scaling dynamic_scale")
    steps = [
        each.get("gradient_accumulation_steps") or 1 for each in (before, now)
    ]
    if steps[0] != steps[1]:
        kept.append("_accumulated_gradients")
    words = _variables.restore(model, values, record, tuple(kept))
    if steps[0] != steps[1]:
        # It counts batches, and schedules count updates.
        batches = keras_compat.batches_seen(_unwrapped(model.optimizer))
        updates = int(backend.to_numpy(batches)) // steps[0]
        batches.assign(updates * steps[1])
    return words


def _aligned(
    values: list[Any],
    saved_position: int | None,
    position: int | None,
    rate: Any,
) -> list[Any]:
    """The values of a backup in the order of the variables of this script.

    A number is a variable of the optimizer, and a schedule is not. So where
    the script has the other kind of learning rate, one value is left out, or
    `rate` put in.
    """
    values = list(values)
    if saved_position is not None and position is None:
        del values[saved_position]
    elif saved_position is None and position is not None:
        values.insert(position, rate)
    return values


def _set_learning_rate(
    optimizer: Any, record: dict[str, Any], saved_rate: Any, rate: Any
) -> list[str]:
    """Uses the rate of the script if it is a new one; see `restore`."""
    first_rate = record["learning_rate"]
    # In the process that was interrupted, the optimizer of the script still
    # has the rate of the backup.
    if rate in (first_rate, saved_rate):
        return []
    variable = _rate_variable(optimizer)
    if variable is not None:
        variable.assign(rate)
    record["learning_rate"] = rate
    return _changed("", {"learning_rate": first_rate}, {"learning_rate": rate})


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def is_whole(state: dict[str, Any]) -> bool:
    """Whether the record in the state of a backup, if any, can be compared."""
    record, settings = state.get("record"), state.get("settings", {})
    if record is None:
        return isinstance(settings, dict)
    kinds = {
        "keras": str,
        "backend": str,
        "layers": list,
        "optimizer": str,
        "hyperparameters": dict,
        "batches": dict,
        "callbacks": list,
    }
    return (
        isinstance(settings, dict)
        and isinstance(record, dict)
        and all(isinstance(record.get(k), v) for k, v in kinds.items())
        and {"learning_rate", "learning_rate_at"} <= set(record)
        and len(record["callbacks"]) == len(state["callbacks"])
        and all(
            isinstance(entry, list)
            and list(map(type, entry)) == [str, dict, bool]
            for entry in record["callbacks"]
        )
        and all(map(_is_layer, record["layers"]))
        and isinstance(record.get("graphs", []), list)
        and isinstance(record.get("variables", []), list)
        and all(isinstance(key, str) for key in record.get("variables", []))
        and isinstance(state.get("epochs"), int)
    )


def _is_layer(layer: Any) -> bool:
    return (
        isinstance(layer, dict)
        and isinstance(layer.get("type"), str)
        and isinstance(layer.get("given"), dict)
        and isinstance(layer.get("more", {}), dict)
    )

"""What a run is made of, noted in its backup; what differs in another one.

The architecture and the class of the optimizer must be the same for a run to
go on. Everything else is a setting: the script's is used, and a difference is
told.
"""

import json
from typing import Any

import keras
import numpy as np

from keras_wake import _architecture
from keras_wake import _snapshot
from keras_wake import backend
from keras_wake.callbacks import _callback_state

# Where one of these is set or not, an optimizer has other variables.
_OF_VARIABLES = (
    *("momentum", "use_ema", "amsgrad", "centered"),
    "gradient_accumulation_steps",
)


def run_record(
    model: Any, callbacks: list[Any], batches: dict[str, Any]
) -> dict[str, Any]:
    """What the script gives, before anything is restored.

    Args:
        model: Compiled `WakeModel`.
        callbacks: Those of the run, as the user gave them.
        batches: What is known of the batches of `fit`.
    """
    name, config = _optimizer(model.optimizer)
    record = {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "layers": _architecture.layer_records(model.classifier),
        "optimizer": name,
        "hyperparameters": config,
        "learning_rate": _learning_rate(model.optimizer),
        "batches": batches,
        "callbacks": [
            [
                type(callback).__name__,
                _callback_state.given_to(callback),
                _callback_state.counts(callback),
            ]
            for callback in callbacks
        ],
    }
    # As it comes back from a file.
    return json.loads(json.dumps(record))


def complete(record: dict[str, Any], model: Any) -> dict[str, Any]:
    """The record for a backup, of a model whose optimizer has been built."""
    # Which of the values of `_snapshot.take` the learning rate is.
    return {**record, "learning_rate_at": _place_of_rate(model)}


def settings_of(model: Any) -> dict[str, str]:
    """What a `WakeModel` is made with, in a comparable form."""
    found = {
        name: repr(getattr(model, name))
        for name in ("temperature", "scale_distillation", "seed")
    }
    for name in ("attack", "eval_attack", "objective", "schedule"):
        found[name] = _callback_state.described(getattr(model, name))
    return found


def refusals(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What keeps the run of a backup from going on, in words."""
    words, _ = _layers(there, here)
    old, new = there["optimizer"], here["optimizer"]
    if old != new:
        return [*words, f"the optimizer is {old} there and {new} here"]
    old, new = there["hyperparameters"], here["hyperparameters"]
    return words + [
        f"the optimizer's `{name}` is {old[name]!r} there and {new[name]!r} "
        "here, for which it has other variables"
        for name in _OF_VARIABLES
        if name in old and name in new and bool(old[name]) != bool(new[name])
    ]


def differences(
    there: dict[str, Any],
    here: dict[str, Any],
    pairs: dict[int, int],
    all_callbacks: bool,
) -> list[str]:
    """The settings that differ, in words.

    Args:
        there: `settings` and `record` of a backup.
        here: The same of this `fit`.
        pairs: What `_callback_state.hand_out` has returned.
        all_callbacks: Whether a callback that is missing was left out.
    """
    old, new = there.get("settings", {}), here["settings"]
    words = _differing("", old, new)
    old, new = there.get("record"), here["record"]
    if old is None:
        return words
    words += _layers(old, new)[1]
    name, part = new["optimizer"], "hyperparameters"
    words += _differing(f"{name} ", old[part], new[part])
    words += _differing("", old["batches"], new["batches"])
    words += _differing_callbacks(
        old["callbacks"], new["callbacks"], pairs, all_callbacks
    )
    if old["backend"] != new["backend"]:
        words.append(
            f"backend: {old['backend']} there, {new['backend']} here, which "
            "draws other dropout masks"
        )
    return words


def _differing(
    prefix: str, there: dict[str, Any], here: dict[str, Any]
) -> list[str]:
    return [
        f"{prefix}{name}: {_text(there[name])} there, {_text(value)} here"
        for name, value in here.items()
        if name in there and there[name] != value
    ]


def _differing_callbacks(
    there: list[list[Any]],
    here: list[list[Any]],
    pairs: dict[int, int],
    all_callbacks: bool,
) -> list[str]:
    words: list[str] = []
    for new, old in pairs.items():
        name, given, counts = here[new]
        if counts and old >= 0:
            words += _callback_state.differences(name, there[old][1], given)
    sides = [(here, set(pairs), "not there, here")]
    if all_callbacks:
        sides.append((there, set(pairs.values()), "there, not here"))
    for listed, known, where in sides:
        words += [
            f"`{name}` ({where})"
            for number, (name, _, counts) in enumerate(listed)
            if counts and number not in known
        ]
    return words


def _layers(
    there: dict[str, Any], here: dict[str, Any]
) -> tuple[list[str], list[str]]:
    strict = all(there[name] == here[name] for name in ("keras", "backend"))
    return _architecture.compare_layers(there["layers"], here["layers"], strict)


def _optimizer(optimizer: Any) -> tuple[str, dict[str, Any]]:
    """Its class and its settings, but for the learning rate."""
    name = type(optimizer).__name__
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:  # Scales the loss.
        inner_name, config = _optimizer(inner)
        return f"{name}({inner_name})", config
    config = {
        key: value if _architecture.is_plain(value) else repr(value)
        for key, value in optimizer.get_config().items()
        if key not in ("name", "learning_rate")
    }
    return name, config


def _rate_variable(optimizer: Any) -> Any:
    """The variable of the learning rate; None where it is a schedule."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.Variable) else None


def _learning_rate(optimizer: Any) -> Any:
    """A number, or the text of a schedule."""
    variable = _rate_variable(optimizer)
    if variable is not None:
        return float(backend.to_numpy(variable))
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    return _callback_state.described(rate)


def _place_of_rate(model: Any) -> int | None:
    variable = _rate_variable(model.optimizer)
    # It comes before the variables that `build` adds.
    for place, each in enumerate(model.optimizer.variables):
        if each is variable:
            return len(model.variables) + place
    return None


def restore(
    model: Any, values: list[Any], record: dict[str, Any] | None
) -> list[str]:
    """Restores a model; its learning rate as the script or the run has it.

    A callback may have moved the rate, so the backup's is right where the
    script gives the one with which the run began. Any other is a new setting.

    Args:
        model: The `WakeModel`.
        values: Those of the backup.
        record: That of the backup, which gets the rate with which the run
            goes on; None if it has none.

    Returns:
        Both rates, in words, if the script's is a new one.

    Raises:
        ValueError: If the values are those of another model or optimizer.
    """
    if record is None:
        _snapshot.put_back(model, values)
        return []
    _snapshot.variables_of(model)  # Builds the optimizer.
    before, now = record["learning_rate"], _learning_rate(model.optimizer)
    there, here = record["learning_rate_at"], _place_of_rate(model)
    moved = None if there is None else float(np.ravel(values[there])[0])
    values = list(values)
    if there is not None and here is None:
        del values[there]
    if there is None and here is not None:
        values.insert(here, now)
    _snapshot.put_back(model, values)
    # A model that goes on in the same process has the rate that it had then.
    if now in (before, moved):
        return []
    variable = _rate_variable(model.optimizer)
    if variable is not None:
        variable.assign(now)
    record["learning_rate"] = now
    return [f"learning_rate: {_text(before)} there, {_text(now)} here"]


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
            isinstance(entry, list) and len(entry) == 3
            for entry in record["callbacks"]
        )
        and all(
            isinstance(layer, dict) and {"type", "given"} == set(layer)
            for layer in record["layers"]
        )
        and isinstance(state.get("epochs"), int)
    )

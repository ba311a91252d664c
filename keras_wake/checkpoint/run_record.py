"""The settings of a run, stored in its backup and compared when it resumes.

The network and the class of the optimizer must be the same. All other settings
may change: those of the script are used, and a warning names what has changed.
"""

import json

import keras
import numpy as np

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.backend import layer_settings
from keras_wake.checkpoint import architecture
from keras_wake.checkpoint import callback_states
from keras_wake.checkpoint import variable_keys
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json

# Settings that add variables to an optimizer. Backups of earlier versions do
# not say which variable a value belongs to.
_ADDING_VARIABLES = (
    *("momentum", "use_ema", "amsgrad", "centered"),
    "gradient_accumulation_steps",
)


def run_record(
    model: keras.Model,
    callbacks: list[keras.callbacks.Callback],
    batches: Config,
) -> Config:
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
        "layers": architecture.layer_records(model.classifier),
        "graphs": architecture.graph_records(model.classifier),
        "optimizer": name,
        "hyperparameters": config,
        "learning_rate": _learning_rate(model.optimizer),
        "batches": batches,
        "callbacks": [
            [
                type(callback).__name__,
                callback_states.arguments_of(callback),
                callback_states.affects_training(callback),
            ]
            for callback in callbacks
        ],
    }
    # As it comes back from a file.
    return json.loads(json.dumps(record))


def settings_of(model: keras.Model) -> dict[str, str]:
    """The arguments of a `WakeModel` as texts that can be compared."""
    found = {
        name: repr(getattr(model, name))
        for name in ("temperature", "scale_distillation", "seed")
    }
    for name in ("attack", "eval_attack", "objective", "schedule"):
        found[name] = callback_states.described(getattr(model, name))
    return found


def replacement(callbacks: list[Json], current: Config) -> Config:
    """A record for the backup of an earlier version, which has none.

    It is that of this script, with which nothing differs.

    Args:
        callbacks: Names and states of those in the backup.
        current: The record of this script.
    """
    names = [name for name, _ in callbacks]
    found = []
    for number, name in enumerate(names):
        alike = [each for each in current["callbacks"] if each[0] == name]
        if len(alike) == names.count(name):
            found.append(alike[names[:number].count(name)])
        else:
            found.append([name, {}, False])
    return {**current, "callbacks": found}


def refusals(saved: Config, current: Config) -> list[str]:
    """The differences because of which a run cannot go on, as text."""
    strict = _is_strict(saved, current)
    words, _ = architecture.compare_layers(
        saved["layers"], current["layers"], strict
    )
    if not words and "graphs" in saved:
        words = architecture.compare_graphs(
            saved["graphs"], current["graphs"], strict
        )
    old, new = saved["optimizer"], current["optimizer"]
    if old != new:
        words.append(
            f"the optimizer is {old} in the backup and {new} in this script"
        )
    if "variables" in saved:
        return words
    old, new = saved["hyperparameters"], current["hyperparameters"]
    return words + [
        f"the optimizer's `{name}` is {old[name]!r} in the backup and "
        f"{new[name]!r} in this script, which changes its variables"
        for name in _ADDING_VARIABLES
        if name in old and name in new and bool(old[name]) != bool(new[name])
    ]


def differences(
    saved: Config, current: Config, pairs: dict[int, int], all_callbacks: bool
) -> list[str]:
    """The settings that have changed, as text.

    Args:
        saved: `settings` and `record` of a backup.
        current: The same of this `fit`.
        pairs: What `callback_states.match_callbacks` returned, with the
            marks of `restore_states`.
        all_callbacks: Whether this process runs all callbacks, so that a
            missing one was left out by the user. (Workers other than the
            chief run fewer.)
    """
    words = _changed(saved["settings"], current["settings"])
    old, new = saved["record"], current["record"]
    words += architecture.compare_layers(
        old["layers"], new["layers"], _is_strict(old, new)
    )[1]
    label = f"{new['optimizer']} {{}}"
    words += _changed(old["hyperparameters"], new["hyperparameters"], label)
    words += _changed(old["batches"], new["batches"])
    words += _changed_callbacks(
        old["callbacks"], new["callbacks"], pairs, all_callbacks
    )
    if old["backend"] != new["backend"]:
        words.append(
            f"backend: {old['backend']} in the backup, {new['backend']} in "
            "this script, which draws other dropout masks"
        )
    return words


def restore(
    model: keras.Model, values: list[np.ndarray], record: Config
) -> list[str]:
    """Restores the variables of a model.

    If the script has the learning rate with which the run began, the run
    continues with the rate in the backup, which a callback may have changed.
    Any other rate is a new setting.

    Args:
        model: The `WakeModel`.
        values: Those of the backup.
        record: That of the backup. A new learning rate becomes the one with
            which the run began.

    Returns:
        Both rates, as text, if the script's is used, and what of the
        optimizer begins anew.

    Raises:
        ValueError: If the values are those of another model or optimizer.
    """
    saved = variable_keys.by_key(values, record["variables"])
    optimizer = model.optimizer
    rate, first_rate = _learning_rate(optimizer), record["learning_rate"]
    words = _restore_variables(model, saved, record)
    saved_rate = None
    if keras_compat.RATE in saved:
        saved_rate = float(np.ravel(saved[keras_compat.RATE])[0])
    # In the process that was interrupted, the optimizer of the script still
    # has the rate of the backup.
    if rate in (first_rate, saved_rate):
        return words
    variable = keras_compat.initial_rate(_unwrapped(optimizer))
    if isinstance(variable, keras.Variable):
        variable.assign(rate)
    record["learning_rate"] = rate
    return words + _changed(
        {"learning_rate": first_rate}, {"learning_rate": rate}
    )


def _restore_variables(
    model: keras.Model, saved: dict[str, np.ndarray], record: Config
) -> list[str]:
    before = record["hyperparameters"]
    optimizer = model.optimizer
    _, now = _optimizer(optimizer)
    kept: tuple[str, ...] = ()
    if before.get("initial_scale") != now.get("initial_scale"):
        kept += ("scaling dynamic_scale",)
    old, new = (
        each.get("gradient_accumulation_steps") or 1 for each in (before, now)
    )
    if old != new:
        kept += (keras_compat.ACCUMULATED_GRADIENTS,)
    anew = variable_keys.restore(model, saved, kept)
    if old != new:
        # It counts batches, and schedules count updates.
        batches = keras_compat.batches_seen(_unwrapped(optimizer))
        batches.assign(int(backend.to_numpy(batches)) // old * new)
    if not anew:
        return []
    return [f"variables of the optimizer that begin anew: {anew}"]


def _changed(saved: Config, current: Config, label: str = "{}") -> list[str]:
    found = architecture.differences(saved, current, label, False, _text)
    return list(found.values())


def _text(value: Json) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _changed_callbacks(
    saved: list[Json],
    current: list[Json],
    pairs: dict[int, int],
    all_callbacks: bool,
) -> list[str]:
    words: list[str] = []
    for number, (name, given, affects) in enumerate(current):
        if affects and number not in pairs:
            words.append(f"`{name}` is new in this script")
        elif affects and pairs[number] >= 0:
            before = saved[pairs[number]][1]
            words += callback_states.differences(name, before, given)
    for number, (name, _, affects) in enumerate(saved):
        if affects and all_callbacks and number not in pairs.values():
            words.append(f"`{name}` is missing in this script")
    return words


def _is_strict(saved: Config, current: Config) -> bool:
    # A record without graphs is of a version that stored fewer settings.
    same = all(saved[name] == current[name] for name in ("keras", "backend"))
    return same and "graphs" in saved


def _unwrapped(optimizer: keras.Optimizer) -> keras.Optimizer:
    """The optimizer within one that scales the loss, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _optimizer(optimizer: keras.Optimizer) -> tuple[str, Config]:
    """Its class and its settings, without the learning rate."""
    inner = _unwrapped(optimizer)
    name = type(inner).__name__
    if inner is not optimizer:
        name = f"{type(optimizer).__name__}({name})"
    config = {**optimizer.get_config(), **inner.get_config()}
    return name, {
        key: value if layer_settings.is_plain(value) else repr(value)
        for key, value in config.items()
        if key not in ("name", "learning_rate", "inner_optimizer")
    }


def _learning_rate(optimizer: keras.Optimizer) -> float | str:
    """A number, or the text of a schedule."""
    rate = keras_compat.initial_rate(_unwrapped(optimizer))
    if isinstance(rate, keras.Variable):
        return float(backend.to_numpy(rate))
    return callback_states.described(rate)

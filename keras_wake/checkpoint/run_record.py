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
from keras_wake.backend.keras_compat import RATE
from keras_wake.checkpoint import architecture
from keras_wake.checkpoint import callback_states
from keras_wake.checkpoint import variable_keys
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json


def run_record(
    model: keras.Model,
    callbacks: list[keras.callbacks.Callback],
    batches: Config,
) -> Config:
    """The settings of this script, before anything is restored.

    `batches` says how `fit` divides the data.
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

    It is that of this script, with which nothing differs. `callbacks` are
    names and states of those in the backup.
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
    old, new = saved["layers"], current["layers"]
    words, _ = architecture.compare_layers(old, new, strict)
    if not words and "graphs" in saved:
        old, new = saved["graphs"], current["graphs"]
        words = architecture.compare_graphs(old, new, strict)
    old, new = saved["optimizer"], current["optimizer"]
    if old != new:
        words.append(
            f"the optimizer is {old} in the backup and {new} in this script"
        )
    return words


def differences(
    saved: Config, current: Config, pairs: dict[int, int]
) -> list[str]:
    """The settings that have changed, as text.

    Both have `settings` and a `record`; `pairs` is what
    `callback_states.match_callbacks` has returned.
    """
    old, new = saved["record"], current["record"]
    _, words = architecture.compare_layers(
        old["layers"], new["layers"], _is_strict(old, new)
    )
    label = f"{new['optimizer']} {{}}"
    words = [
        *_changed(saved["settings"], current["settings"]),
        *words,
        *_changed(old["hyperparameters"], new["hyperparameters"], label),
        *_changed(old["batches"], new["batches"]),
        *callback_states.changed(old["callbacks"], new["callbacks"], pairs),
    ]
    if old["backend"] != new["backend"]:
        words.append(
            f"backend: {old['backend']} in the backup, {new['backend']} in "
            "this script, which draws different dropout masks"
        )
    return words


def restore(
    model: keras.Model, values: list[np.ndarray], record: Config
) -> list[str]:
    """Restores the variables of a model from the values of a backup.

    If the script has the learning rate with which the run began, the run
    continues with the rate in the backup, which a callback may have changed.
    Any other rate is a new setting, and `record` has it afterwards.

    Returns:
        Both rates, as text, if the script's is used, and what of the
        optimizer begins anew.

    Raises:
        ValueError: If the values are those of another model or optimizer.
    """
    saved = variable_keys.by_key(values, record["variables"])
    words: list[str] = []
    rate, first_rate = _learning_rate(model.optimizer), record["learning_rate"]
    # In the process that was interrupted, the optimizer of the script still
    # has the rate of the backup.
    if rate not in (first_rate, *map(float, np.ravel(saved.get(RATE, ())))):
        saved.pop(RATE, None)
        record["learning_rate"] = rate
        words = _changed({"learning_rate": first_rate}, {"learning_rate": rate})
    before, (_, now) = record["hyperparameters"], _optimizer(model.optimizer)
    if before.get("initial_scale") != now.get("initial_scale"):
        saved.pop("scaling dynamic_scale", None)
    old, new = (
        each.get("gradient_accumulation_steps") or 1 for each in (before, now)
    )
    if old != new:
        unfinished = keras_compat.ACCUMULATED_GRADIENTS
        saved = {k: v for k, v in saved.items() if not k.startswith(unfinished)}
    anew = variable_keys.restore(model, saved)
    if old != new:
        # It counts batches, and schedules count updates.
        batches = keras_compat.batches_seen(_unwrapped(model.optimizer))
        batches.assign(int(backend.to_numpy(batches)) // old * new)
    if anew:
        words.append(f"variables of the optimizer that begin anew: {anew}")
    return words


def _changed(saved: Config, current: Config, label: str = "{}") -> list[str]:
    found = architecture.differences(saved, current, label, strict=False)
    return list(found.values())


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

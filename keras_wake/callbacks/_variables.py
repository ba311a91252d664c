"""Which value of a backup belongs to which variable of a model.

A backup has a key for each value, which says the same in every process: a
setting of the script may add or remove variables. A `Dropout` of rate 0 has no
random state, for example, and an optimizer without momentum no momenta.
"""

from typing import Any

import keras

from keras_wake.backend import keras_compat
from keras_wake.backend import layer_settings
from keras_wake.checkpoint import snapshot

_AVERAGE = "_model_variables_moving_average of "


def keys_of(model: Any) -> list[str]:
    """The keys of `_snapshot.variables_of(model)`."""
    own = _model_keys(model)
    weights = {id(v): k for v, k in zip(model.variables, own, strict=True)}
    return [*own, *_optimizer_keys(model.optimizer, weights)]


def check(model: Any, values: list[Any], record: dict[str, Any] | None) -> None:
    """Refuses the values of another network; changes nothing.

    Raises:
        ValueError: If the values are those of another network.
    """
    own = model.variables
    if record is None or "variables" not in record:
        snapshot.check(own, values[: len(own)])
        return
    keys = _model_keys(model)
    saved = _by_key(values, record)
    snapshot.check(
        [v for v, key in zip(own, keys, strict=True) if _is_weight(key)],
        [value for key, value in saved.items() if _is_weight(key)],
    )


def restore(
    model: Any,
    values: list[Any],
    record: dict[str, Any],
    kept: tuple[str, ...] = (),
) -> list[str]:
    """Restores the variables that the backup has a value for.

    Random states and variables of the optimizer for which it has none are
    those of the script.

    Args:
        model: Compiled `WakeModel`.
        values: Those of the backup.
        record: That of the backup.
        kept: Beginnings of keys of variables that are those of the script
            in any case.

    Returns:
        What of the optimizer begins anew, as text.

    Raises:
        ValueError: If the values are those of another network.
    """
    check(model, values, record)
    saved = _by_key(values, record)
    variables = dict(
        zip(keys_of(model), snapshot.variables_of(model), strict=True)
    )
    found = [k for k in variables if k in saved and not k.startswith(kept)]
    snapshot.check(
        [variables[key] for key in found], [saved[key] for key in found]
    )
    for key in found:
        snapshot.assign(variables[key], saved[key])
    anew = [
        key
        for key in variables
        if not (
            key in saved
            or key == "_learning_rate"
            or key.startswith(("seed ", *kept))
        )
    ]
    for key in anew:
        if key.startswith(f"{_AVERAGE}weight"):
            # It begins with the weights, which come before it.
            weight = variables[key.removeprefix(_AVERAGE)]
            variables[key].assign(weight)
    if not anew:
        return []
    return [f"variables of the optimizer that begin anew: {len(anew)}"]


def _by_key(values: list[Any], record: dict[str, Any]) -> dict[str, Any]:
    keys = record["variables"]
    if len(keys) != len(values) or len(set(keys)) != len(keys):
        raise ValueError(
            f"It has {len(values)} values for {len(set(keys))} variables."
        )
    return dict(zip(keys, values, strict=True))


def _is_weight(key: str) -> bool:
    return key.startswith("weight ")


def _model_keys(model: Any) -> list[str]:
    seeds = {}
    for name in ("classifier", "teacher"):
        layers = layer_settings.layers_of(getattr(model, name))
        for number, layer in enumerate(layers):
            own = filter(_is_random_state, layer.variables)
            # The layers of a layer come after it, and overwrite its key.
            for position, variable in enumerate(own):
                place = f"{position} of layer {number} of {name}"
                seeds[id(variable)] = f"seed {place}"
    keys: list[str] = []
    counts = {"weight": 0, "seed": 0}
    for variable in model.variables:
        kind = "seed" if _is_random_state(variable) else "weight"
        if id(variable) not in seeds:
            seeds[id(variable)] = f"{kind} {counts[kind]}"
            counts[kind] += 1
        keys.append(seeds[id(variable)])
    return keys


def _is_random_state(variable: Any) -> bool:
    return variable.name == "seed_generator_state"


def _optimizer_keys(optimizer: Any, weights: dict[int, str]) -> list[str]:
    """The attribute that holds a variable, and the weight that it is for."""
    found: dict[int, str] = {}
    inner = getattr(optimizer, "inner_optimizer", None)
    for each in (inner, optimizer):
        # One that scales the loss has attributes of the same names.
        scaling = "scaling " if inner is not None and each is optimizer else ""
        of = [
            weights.get(id(variable), str(number))
            for number, variable in enumerate(
                keras_compat.trained_variables(each)
            )
        ]
        for name, value in (vars(each) if each is not None else {}).items():
            if name in ("_variables", "_trainable_variables"):
                continue
            if isinstance(value, keras.Variable):
                found.setdefault(id(value), f"{scaling}{name}")
            elif isinstance(value, (list, tuple)) and len(value) == len(of):
                for variable, weight in zip(value, of, strict=True):
                    found.setdefault(
                        id(variable), f"{scaling}{name} of {weight}"
                    )
    variables = optimizer.variables
    return [
        found.get(id(variable), f"{number} of {len(variables)} of optimizer")
        for number, variable in enumerate(variables)
    ]

"""Which value of a backup belongs to which variable of a model.

A backup has a key for each value, which is the same in every process. Their
order would not do, as a setting of the script may add or remove variables: a
`Dropout` of rate 0 has no random state, an optimizer without momentum no
momenta.
"""

from collections.abc import Iterator

import keras
import numpy as np

from keras_wake.backend import keras_compat
from keras_wake.backend import layer_settings
from keras_wake.checkpoint import snapshot

_AVERAGE = f"{keras_compat.AVERAGES} of "


def keys_of(model: keras.Model) -> list[str]:
    """The keys of `snapshot.variables_of(model)`."""
    variables = snapshot.variables_of(model)
    keys = _model_keys(model)
    for variable, key in list(_optimizer_keys(model.optimizer, keys)):
        keys.setdefault(id(variable), key)
    first = len(model.variables)
    count = len(variables) - first
    return [
        keys.get(id(variable), f"{number - first} of {count} of optimizer")
        for number, variable in enumerate(variables)
    ]


def by_key(values: list[np.ndarray], keys: list[str]) -> dict[str, np.ndarray]:
    """The values of a backup by their keys, one for each."""
    if len(keys) != len(values) or len(set(keys)) != len(keys):
        raise ValueError(
            f"It has {len(values)} values for {len(set(keys))} variables."
        )
    return dict(zip(keys, values, strict=True))


def check(model: keras.Model, saved: dict[str, np.ndarray]) -> None:
    """Raises a `ValueError` if `saved` has other weights than the model."""
    keys = _model_keys(model)
    snapshot.check(
        [v for v in model.variables if keys[id(v)].startswith("weight ")],
        [value for key, value in saved.items() if key.startswith("weight ")],
    )


def restore(model: keras.Model, saved: dict[str, np.ndarray]) -> int:
    """Restores the variables that a backup has a value for, after `check`.

    Others are left as they are; a new moving average starts at the restored
    weights.

    Returns:
        How many variables of the optimizer begin anew.
    """
    in_order = snapshot.variables_of(model)
    variables = dict(zip(keys_of(model), in_order, strict=True))
    found = [key for key in variables if key in saved]
    snapshot.check([variables[k] for k in found], [saved[k] for k in found])
    anew = 0
    # The weights come before the averages of them.
    for key, variable in variables.items():
        if key in saved:
            snapshot.assign(variable, saved[key])
        elif not key.startswith((keras_compat.RATE, "seed ")):
            anew += 1
            if key.startswith(f"{_AVERAGE}weight"):
                variable.assign(variables[key.removeprefix(_AVERAGE)])
    return anew


def _is_random_state(variable: keras.Variable) -> bool:
    return variable.name == "seed_generator_state"


def _model_keys(model: keras.Model) -> dict[int, str]:
    """The keys of the variables of a model, by their `id`."""
    keys: dict[int, str] = {}
    for name in ("classifier", "teacher"):
        layers = layer_settings.layers_of(getattr(model, name))
        for number, layer in enumerate(layers):
            states = filter(_is_random_state, layer.variables)
            # Layers within a layer come after it, and overwrite its keys.
            for position, variable in enumerate(states):
                place = f"{position} of layer {number} of {name}"
                keys[id(variable)] = f"seed {place}"
    counts = {"weight": 0, "seed": 0}
    for variable in model.variables:
        kind = "seed" if _is_random_state(variable) else "weight"
        if id(variable) not in keys:
            keys[id(variable)] = f"{kind} {counts[kind]}"
            counts[kind] += 1
    return keys


def _optimizer_keys(
    optimizer: keras.Optimizer, weights: dict[int, str]
) -> Iterator[tuple[keras.Variable, str]]:
    """The attribute that holds a variable, and the weight that it is for."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        yield from _optimizer_keys(inner, weights)
    # A loss-scaling optimizer has attributes with the names of the inner one.
    prefix = "scaling " if inner is not None else ""
    weight_keys = [
        weights.get(id(variable), str(number))
        for number, variable in enumerate(
            keras_compat.trained_variables(optimizer)
        )
    ]
    for name, value in vars(optimizer).items():
        if name in keras_compat.ALL_VARIABLES:
            continue
        if isinstance(value, keras.Variable):
            yield value, f"{prefix}{name}"
        elif isinstance(value, (list, tuple)) and len(value) == len(
            weight_keys
        ):
            for variable, weight in zip(value, weight_keys, strict=True):
                yield variable, f"{prefix}{name} of {weight}"

"""What a model consists of: its layers, and how each of them is set.

A setting is a public attribute of a layer that is a number, a text or a list
of such. (`get_config` would be the other way to it, but serialises whatever a
layer holds, a whole PyTorch module for example.) Two questions are answered:
is the model of a file the one at hand, in any process; and has a model been
changed in place since something was compiled for it? `layer_records` and
`compare_layers` name the differences.
"""

import hashlib
import inspect
import json
import weakref
from collections.abc import Iterator
from typing import Any

import keras

# What Keras notes down, and what it makes up anew in every process.
_PASSED_OVER = (
    *("built", "training", "call_signature_parameters"),
    *("name", "seed"),
)
# What Keras finds out by itself, on one backend or in one version of it.
_FOUND_OUT = ("autocast", "supports_jit", "supports_masking")
# Settings that do not change the outputs at inference.
_TRAINING_ONLY = ("momentum", "rate", "stddev", "survival_probability")


def architecture(model: Any) -> str:
    """Digest of the layers and their settings: the same in every process."""
    layers = [
        [type(layer).__name__, _policy(layer), _settings(layer)]
        for layer in _layers(model)
    ]
    text = json.dumps(layers, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def layers_of_now(model: Any) -> tuple:
    """Differs once a layer is another one or set otherwise, in this process.

    Unlike in `architecture`, functions count: an activation, for example.
    """
    return tuple(
        (
            weakref.ref(layer),
            _policy(layer),
            repr(_settings(layer)),
            tuple(_functions(layer)),
        )
        for layer in _layers(model)
    )


def layer_records(model: Any) -> list[dict[str, Any]]:
    """What `compare_layers` compares, of each layer, as JSON can hold it."""
    records = [
        {"type": type(layer).__name__, "given": _recorded_settings(layer)}
        for layer in _layers(model)
    ]
    return json.loads(json.dumps(records))


def compare_layers(
    saved: list[dict[str, Any]], current: list[dict[str, Any]], strict: bool
) -> tuple[list[str], list[str]]:
    """Compares two models, and describes their differences.

    Args:
        saved: `layer_records` of the model of a backup.
        current: Those of the model of this script.
        strict: Whether a setting that only one of the models has counts as a
            difference, as it does for two models of one version of Keras and
            one backend.

    Returns:
        The differences that change the outputs, and those that matter in
        training only.
    """
    types = [[record["type"] for record in each] for each in (saved, current)]
    if types[0] != types[1]:
        return [_differing_types(*types)], []
    of_outputs: list[str] = []
    of_training: list[str] = []
    for number, (old, new) in enumerate(zip(saved, current, strict=True), 1):
        layer = new["type"]
        for name in differing(old["given"], new["given"], strict):
            before, now = old["given"].get(name), new["given"].get(name)
            text = (
                f"`{name}` of layer {number} ({layer}): {before!r} in the "
                f"backup, {now!r} in this script"
            )
            if _is_training_only(layer, name):
                of_training.append(text)
            else:
                of_outputs.append(text)
    return of_outputs, of_training


def differing(
    saved: dict[str, Any], current: dict[str, Any], strict: bool = True
) -> list[str]:
    """Names of the settings that differ.

    Args:
        saved: Settings of an earlier run.
        current: Settings of this run.
        strict: Whether a setting that only one of them has counts as well.
    """
    return [
        name
        for name in dict.fromkeys([*saved, *current])
        if (strict or (name in saved and name in current))
        and saved.get(name) != current.get(name)
    ]


def _differing_types(saved: list[str], current: list[str]) -> str:
    for number, (old, new) in enumerate(zip(saved, current, strict=False), 1):
        if old != new:
            return (
                f"layer {number} is `{old}` in the backup and `{new}` in this "
                "script"
            )
    return f"{len(saved)} layers in the backup, {len(current)} in this script"


def _is_training_only(layer: str, name: str) -> bool:
    if layer.endswith("Dropout") or layer.startswith(("Random", "Gaussian")):
        return True
    return (
        name in (*_TRAINING_ONLY, "synchronized", "dtype policy")
        or name.endswith(("dropout", "_regularizer", "_constraint"))
        or (name.endswith("_rate") and name != "dilation_rate")
    )


def _recorded_settings(layer: Any) -> dict[str, Any]:
    """The settings of a layer, functions and regularizers by their names."""
    found: dict[str, Any] = {"dtype policy": _policy(layer)}
    kinds = (keras.regularizers.Regularizer, keras.constraints.Constraint)
    plain = _settings(layer)
    for name, value in _public(layer).items():
        if name in (*_PASSED_OVER, *_FOUND_OUT):
            continue
        if name in plain:
            found[name] = value
        elif isinstance(value, kinds):
            found[name] = f"{type(value).__name__} {value.get_config()}"
        elif inspect.isroutine(value):
            found[name] = value.__name__
    return found


def _layers(model: Any) -> Iterator[Any]:
    # Keras has no public way to the layers of layers. Models are made of
    # them; what `fit` and `compile` set on a model is no setting.
    for layer in model._flatten_layers():
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            yield layer


def _policy(layer: Any) -> str:
    return str(getattr(layer.dtype_policy, "name", None))


def _settings(layer: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in _public(layer).items()
        # Keras sets some to None or False in one way of making a layer only.
        if value is not None
        and value is not False
        and name not in _PASSED_OVER
        and is_plain(value)
    }


def _functions(layer: Any) -> Iterator[Any]:
    """References that keep nothing alive, unlike an `id` never used again."""
    for value in _public(layer).values():
        if callable(value) and not isinstance(value, keras.layers.Layer):
            try:
                yield weakref.ref(value)
            except TypeError:  # Of C code: it holds no layer.
                yield value


def _public(layer: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(layer).items() if not k.startswith("_")}


def is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))

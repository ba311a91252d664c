"""The layers and operations of a model, for a backup, and what differs.

Besides the settings of `_architecture`, these are names of functions, NumPy
arrays, what only `get_config` returns, operations that are no layers, and what
each operation takes as its input.
"""

import inspect
import json
from typing import Any

import keras
import numpy as np

from keras_wake.backend import keras_compat
from keras_wake.backend.layer_settings import is_plain
from keras_wake.backend.layer_settings import layers_of
from keras_wake.backend.layer_settings import PASSED_OVER
from keras_wake.backend.layer_settings import plain_settings
from keras_wake.backend.layer_settings import policy_name
from keras_wake.backend.layer_settings import public_attributes
from keras_wake.checkpoint.architecture import checksum

# What Keras finds out by itself, on one backend or in one version of it.
_FOUND_OUT = ("autocast", "supports_jit", "supports_masking")
# Settings that do not change the outputs at inference.
_TRAINING_ONLY = (
    *("momentum", "rate", "stddev", "survival_probability"),
    *("trainable", "synchronized", "dtype policy"),
)
# Their `get_config` serialises what they wrap.
_WRAPPERS = tuple(
    getattr(keras.layers, name)
    for name in ("TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
    if hasattr(keras.layers, name)
)
# A longer setting is stored as a checksum.
_LONGEST = 200


def layer_records(model: Any) -> list[dict[str, Any]]:
    """What `compare_layers` compares, of each layer, as JSON can hold it."""
    records = [
        {
            "type": type(layer).__name__,
            "given": _recorded_settings(layer),
            "more": _more_settings(layer),
        }
        for layer in layers_of(model)
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
        before, now = old["given"], new["given"]
        if "more" in old:  # Not in backups of earlier versions.
            before, now = before | old["more"], now | new["more"]
        for name in differing(before, now, strict):
            text = (
                f"`{name}` of layer {number} ({layer}): "
                f"{before.get(name)!r} in the backup, {now.get(name)!r} in "
                "this script"
            )
            if _is_training_only(layer, name):
                of_training.append(text)
            else:
                of_outputs.append(text)
    return of_outputs, of_training


def graph_records(model: Any) -> list[list[dict[str, Any]]]:
    """What `compare_graphs` compares, as JSON can hold it.

    Of each Functional model, the model itself or one within it, all
    operations: a number for each, as a layer may be called several times, its
    settings unless it is a layer, and what it takes. Inputs are numbers of
    earlier calls, as the names of layers change from process to process.
    """
    graphs = {}
    for each in keras_compat.flatten_layers(model):
        # A `Sequential` holds a Functional model once it is built.
        functional = keras_compat.functional_of(each)
        if keras_compat.calls_of(functional):
            graphs[id(functional)] = _graph(functional)
    return json.loads(json.dumps(list(graphs.values())))


def compare_graphs(
    saved: list[list[dict[str, Any]]],
    current: list[list[dict[str, Any]]],
    strict: bool,
) -> list[str]:
    """Compares the `graph_records` of two models of the same layers.

    Returns:
        The first difference, as text, or nothing.
    """
    for old_graph, new_graph in zip(saved, current, strict=False):
        for old, new in zip(old_graph, new_graph, strict=False):
            what = f"operation {new['number']} of the network"
            if old["type"] != new["type"]:
                return [
                    f"{what} is `{old['type']}` in the backup and "
                    f"`{new['type']}` in this script"
                ]
            for name in differing(old["given"], new["given"], strict):
                return [
                    f"`{name}` of {what} ({new['type']}): "
                    f"{old['given'].get(name)!r} in the backup, "
                    f"{new['given'].get(name)!r} in this script"
                ]
            if old != {**new, "given": old["given"]}:
                return [
                    f"{what} ({new['type']}) takes other inputs in the backup "
                    "than in this script"
                ]
    sizes = [list(map(len, graphs)) for graphs in (saved, current)]
    if sizes[0] != sizes[1]:
        return [
            f"the Functional models of the network have {sizes[0]} operations "
            f"in the backup and {sizes[1]} in this script"
        ]
    return []


def graph_digest(model: Any) -> str:
    """Digest of `graph_records`: the same in every process."""
    return checksum(json.dumps(graph_records(model), sort_keys=True).encode())


def _graph(functional: Any) -> list[dict[str, Any]]:
    calls = keras_compat.calls_of(functional)
    numbers = {id(o): n for n, o in enumerate(functional.operations, 1)}
    sources = {
        id(tensor): [number, position]
        for number, call in enumerate(calls, 1)
        for position, tensor in enumerate(call.outputs)
    }
    records = [
        {
            "number": numbers[id(call.operation)],
            "type": _kind(call.operation),
            "given": _operation_settings(call.operation),
            "inputs": [
                _argument(call.arguments.args, sources),
                _argument(call.arguments.kwargs, sources),
            ],
        }
        for call in calls
    ]
    outputs = _argument(functional.outputs, sources)
    last = {"number": len(numbers) + 1, "type": "outputs", "given": {}}
    return [*records, {**last, "inputs": outputs}]


def _kind(operation: Any) -> str:
    # A `Sequential` may also be written as a Functional model.
    kinds = (keras.Sequential, keras.Model)
    return "Model" if isinstance(operation, kinds) else type(operation).__name__


def _operation_settings(operation: Any) -> dict[str, Any]:
    if isinstance(operation, keras.layers.Layer):
        return {}  # Compared as a layer.
    found = {
        name: comparable(value)
        for name, value in public_attributes(operation).items()
        if name not in (*PASSED_OVER, *_FOUND_OUT)
    }
    return {name: value for name, value in found.items() if value is not None}


def _argument(value: Any, sources: dict[int, list[int]]) -> Any:
    """An argument of a call, tensors by the call that they come from."""
    if isinstance(value, (list, tuple)):
        return [_argument(item, sources) for item in value]
    if isinstance(value, dict):
        found = {k: _argument(v, sources) for k, v in value.items()}
        return {k: v for k, v in found.items() if v is not None}
    if isinstance(value, keras.KerasTensor):
        return {"output": sources.get(id(value))}
    return comparable(value)


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
        name in _TRAINING_ONLY
        or name.endswith(("dropout", "_regularizer", "_constraint"))
        or (name.endswith("_rate") and name != "dilation_rate")
    )


def _recorded_settings(layer: Any) -> dict[str, Any]:
    """The settings of a layer, functions and regularizers by their names."""
    found: dict[str, Any] = {"dtype policy": policy_name(layer)}
    kinds = (keras.regularizers.Regularizer, keras.constraints.Constraint)
    plain = plain_settings(layer)
    for name, value in public_attributes(layer).items():
        if name in (*PASSED_OVER, *_FOUND_OUT):
            continue
        if name in plain:
            found[name] = value
        elif isinstance(value, kinds):
            found[name] = f"{type(value).__name__} {value.get_config()}"
        elif inspect.isroutine(value):
            found[name] = value.__name__
    return found


def _more_settings(layer: Any) -> dict[str, Any]:
    """The settings of a layer that `_recorded_settings` does not hold."""
    attributes, config = public_attributes(layer), _config(layer)
    found: dict[str, Any] = {"trainable": bool(layer.trainable)}
    passed_over = (*PASSED_OVER, *_FOUND_OUT, "trainable", "dtype")
    for name in {**attributes, **config}:
        value = attributes.get(name)
        is_numpy = isinstance(value, (np.ndarray, np.generic))
        if (
            name in passed_over
            # What a weight begins with does not matter on resume.
            or name.endswith("initializer")
            or (name in attributes and is_plain(value))
            or inspect.isroutine(value)
        ):
            continue
        value = comparable(value if is_numpy else config.get(name))
        if value is not None:
            found[name] = value
    return found


def _config(layer: Any) -> dict[str, Any]:
    if isinstance(layer, _WRAPPERS):
        return {}
    try:
        return dict(layer.get_config())
    except Exception:  # Written by a user, or of what cannot be serialised.
        return {}


def comparable(value: Any) -> Any:
    """A setting as JSON can hold it; None for what cannot be compared."""
    found = _simplified(value)
    text = json.dumps(found, sort_keys=True)
    if len(text) <= _LONGEST:
        return found
    return f"{type(value).__name__} with checksum {checksum(text.encode())}"


def _simplified(value: Any) -> Any:
    if isinstance(value, dict):
        kind = value.get("class_name")
        if kind in ("__numpy__", "__tensor__"):
            return _simplified(value["config"]["value"])
        if kind is not None:
            return None  # A layer, which is compared itself, for example.
        return {str(k): _simplified(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simplified(item) for item in value]
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _simplified(value.tolist())
    if isinstance(value, float) and value != value:
        return "nan"  # It equals no other NaN.
    if isinstance(value, (slice, complex)) or value is Ellipsis:
        return repr(value)
    if inspect.isroutine(value):
        return value.__name__
    return value if is_plain(value) else None

"""What a network consists of: digests of it, records of it, differences.

A digest tells whether a network is the same. A record, which a backup holds,
also tells what is different: it has the settings of all layers, and of each
Functional model the operations and what they take as inputs.
"""

import hashlib
import inspect
import json
from collections.abc import Callable

import keras
import numpy as np

from keras_wake.backend import keras_compat
from keras_wake.backend.layer_settings import is_plain
from keras_wake.backend.layer_settings import layers_of
from keras_wake.backend.layer_settings import PASSED_OVER
from keras_wake.backend.layer_settings import plain_settings
from keras_wake.backend.layer_settings import policy_name
from keras_wake.backend.layer_settings import public_attributes
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json

# Settings that depend on the backend and on the version of Keras.
_SET_BY_KERAS = ("autocast", "supports_jit", "supports_masking")
# Settings that do not change the outputs at inference.
_TRAINING_ONLY = (
    *("momentum", "rate", "stddev", "survival_probability"),
    *("trainable", "synchronized", "dtype policy"),
)
# The `get_config` of these layers serializes what they wrap.
_WRAPPERS = tuple(
    getattr(keras.layers, name)
    for name in ("TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
    if hasattr(keras.layers, name)
)
# A record holds a checksum of settings that are longer than this.
_MAX_LENGTH = 200


def architecture(model: keras.Model) -> str:
    """Digest of the layers of a model and their settings."""
    layers = [
        [type(layer).__name__, policy_name(layer), plain_settings(layer)]
        for layer in layers_of(model)
    ]
    return checksum(json.dumps(layers, sort_keys=True).encode())


def graph_digest(model: keras.Model) -> str:
    """Digest of `graph_records`."""
    return checksum(json.dumps(graph_records(model), sort_keys=True).encode())


def checksum(content: bytes) -> str:
    """A digest as text, the same in every process."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def layer_records(model: keras.Model) -> list[Config]:
    """The class and the settings of each layer."""
    records = [
        {"type": type(layer).__name__, "given": _layer_settings(layer)}
        for layer in layers_of(model)
    ]
    return json.loads(json.dumps(records))


def graph_records(model: keras.Model) -> list[list[Config]]:
    """The operations of each Functional model, the model itself or one in it.

    A record is one call, as a layer may be called several times. It has the
    settings of an operation that is no layer, and the inputs: the numbers of
    the calls that they come from. (Names of layers differ between processes.)
    """
    graphs = {}
    for each in keras_compat.flatten_layers(model):
        functional = keras_compat.functional_of(each)
        if keras_compat.calls_of(functional):
            graphs[id(functional)] = _graph(functional)
    return json.loads(json.dumps(list(graphs.values())))


def differences(
    saved: Config,
    current: Config,
    label: str = "{}",
    strict: bool = True,
    show: Callable[[Json], str] = repr,
) -> dict[str, str]:
    """Compares two dictionaries of settings.

    Args:
        saved: Settings of an earlier run.
        current: Settings of this run.
        label: What to call a setting in the text; `{}` is its name.
        strict: Whether a setting that only one of them has counts as well.
        show: Turns a value into text.

    Returns:
        For the name of each setting that differs, a text with both values.
    """
    return {
        name: f"{label.format(name)}: {show(saved.get(name))} in the backup, "
        f"{show(current.get(name))} in this script"
        for name in dict.fromkeys([*saved, *current])
        if (strict or (name in saved and name in current))
        and saved.get(name) != current.get(name)
    }


def compare_layers(
    saved: list[Config], current: list[Config], strict: bool
) -> tuple[list[str], list[str]]:
    """Compares the `layer_records` of two networks.

    Args:
        saved: Those in the backup.
        current: Those of this script.
        strict: As in `differences`.

    Returns:
        The differences that change the outputs, and those that matter in
        training only, as text.
    """
    types = [[record["type"] for record in each] for each in (saved, current)]
    if types[0] != types[1]:
        return [_differing_types(*types)], []
    of_outputs: list[str] = []
    of_training: list[str] = []
    for number, (old, new) in enumerate(zip(saved, current, strict=True), 1):
        layer = new["type"]
        # Backups of earlier versions have two dictionaries.
        before = old["given"] | old.get("more", {})
        label = f"`{{}}` of layer {number} ({layer})"
        found = differences(before, new["given"], label, strict)
        for name, text in found.items():
            training_only = _is_training_only(layer, name)
            (of_training if training_only else of_outputs).append(text)
    return of_outputs, of_training


def compare_graphs(
    saved: list[list[Config]], current: list[list[Config]], strict: bool
) -> list[str]:
    """Compares the `graph_records` of two networks with the same layers.

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
            what = f"{what} ({new['type']})"
            label = f"`{{}}` of {what}"
            found = differences(old["given"], new["given"], label, strict)
            if found:
                return list(found.values())[:1]
            if old["inputs"] != new["inputs"]:
                return [
                    f"{what} takes other inputs in the backup than in this "
                    "script"
                ]
    sizes = [list(map(len, graphs)) for graphs in (saved, current)]
    if sizes[0] != sizes[1]:
        return [
            f"the Functional models of the network have {sizes[0]} operations "
            f"in the backup and {sizes[1]} in this script"
        ]
    return []


def _graph(functional: keras.Model) -> list[Config]:
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


def _kind(operation: keras.Operation) -> str:
    # The same network may be a `Sequential` or a Functional model.
    is_model = isinstance(operation, keras.Model)
    return "Model" if is_model else type(operation).__name__


def _operation_settings(operation: keras.Operation) -> Config:
    if isinstance(operation, keras.layers.Layer):
        return {}  # In `layer_records`.
    found = {
        name: comparable(value)
        for name, value in public_attributes(operation).items()
        if name not in (*PASSED_OVER, *_SET_BY_KERAS)
    }
    return {name: value for name, value in found.items() if value is not None}


def _argument(value: object, sources: dict[int, list[int]]) -> Json:
    """An argument of a call, with tensors replaced by their sources."""
    if isinstance(value, (list, tuple)):
        return [_argument(item, sources) for item in value]
    if isinstance(value, dict):
        found = {k: _argument(v, sources) for k, v in value.items()}
        return {k: v for k, v in found.items() if v is not None}
    if isinstance(value, keras.KerasTensor):
        return {"output": sources.get(id(value))}
    return comparable(value)


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


def _layer_settings(layer: keras.layers.Layer) -> Config:
    """Public attributes and entries of `get_config`, as JSON can hold them."""
    attributes, config = public_attributes(layer), _config(layer)
    skipped = (*PASSED_OVER, *_SET_BY_KERAS, "trainable", "dtype")
    found = {
        "dtype policy": policy_name(layer),
        "trainable": bool(layer.trainable),
    }
    for name in {**attributes, **config}:
        if name not in skipped:
            setting = _layer_setting(name, attributes, config)
            if setting is not None:
                found[name] = setting
    return found


def _layer_setting(name: str, attributes: Config, config: Config) -> Json:
    value = attributes.get(name)
    if inspect.isroutine(value):
        return value.__name__
    if name in attributes and is_plain(value):
        # Keras sets some to None or False, as a layer is made or loaded.
        return None if value is False else value
    # On resuming, it does not matter what a weight was at first.
    if name.endswith("initializer"):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        return comparable(value)
    setting = comparable(config.get(name))
    kinds = (keras.regularizers.Regularizer, keras.constraints.Constraint)
    if setting is None and isinstance(value, kinds):
        return f"{type(value).__name__} {value.get_config()}"
    return setting


def _config(layer: keras.layers.Layer) -> Config:
    if isinstance(layer, _WRAPPERS):
        return {}
    try:
        return dict(layer.get_config())
    except Exception:  # A user wrote it, or it cannot be serialized.
        return {}


def comparable(value: object) -> Json:
    """A setting as JSON can hold it; None for what cannot be compared."""
    found = _simplified(value)
    text = json.dumps(found, sort_keys=True)
    if len(text) <= _MAX_LENGTH:
        return found
    return f"{type(value).__name__} with checksum {checksum(text.encode())}"


def _simplified(value: Json) -> Json:
    if isinstance(value, dict):
        kind = value.get("class_name")
        if kind in ("__numpy__", "__tensor__"):
            return _simplified(value["config"]["value"])
        if kind is not None:
            return None  # A layer, for example, which is compared itself.
        return {str(k): _simplified(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simplified(item) for item in value]
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _simplified(value.tolist())
    if isinstance(value, float) and value != value:
        return "nan"  # Equal to itself, unlike NaN.
    if isinstance(value, (slice, complex)) or value is Ellipsis:
        return repr(value)
    if inspect.isroutine(value):
        return value.__name__
    return value if is_plain(value) else None

"""What a network consists of: records of it, their differences, digests.

A backup has the records: the settings of all layers, and of each Functional
model the operations and what they take as inputs. They show what differs.
The state of an evaluation has two digests, which only show that something does.
"""

import hashlib
import inspect
import itertools
import json

import keras
import numpy as np

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.backend.layer_settings import is_plain
from keras_wake.backend.layer_settings import layers_of
from keras_wake.backend.layer_settings import PASSED_OVER
from keras_wake.backend.layer_settings import plain_settings
from keras_wake.backend.layer_settings import policy_name
from keras_wake.backend.layer_settings import public_attributes
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json

# No settings, or some that depend on the backend and on the version of Keras.
_SKIPPED = (*PASSED_OVER, "autocast", "supports_jit", "supports_masking")
# Settings that do not change the outputs at inference.
_TRAINING_ONLY = (
    *("momentum", "rate", "stddev", "survival_probability"),
    *("trainable", "synchronized", "dtype policy"),
)
# The `get_config` of these layers serializes what they wrap.
_WRAPPERS = (
    *(keras.layers.TorchModuleWrapper, keras.layers.TFSMLayer),
    *(keras.layers.JaxLayer, keras.layers.FlaxLayer),
)
# A record holds a checksum of settings that are longer than this.
_MAX_LENGTH = 200


def layers_digest(model: keras.Model) -> str:
    """Digest of the layers of a model and their plain settings."""
    layers = [
        [type(layer).__name__, policy_name(layer), plain_settings(layer)]
        for layer in layers_of(model)
    ]
    return checksum(json.dumps(layers, sort_keys=True).encode())


def graph_digest(model: keras.Model) -> str:
    """Digest of `graph_records`."""
    return checksum(json.dumps(graph_records(model), sort_keys=True).encode())


def weights_digest(model: keras.Model) -> str:
    """The same for equal values of the weights, whatever their names."""
    digest = hashlib.blake2b(digest_size=16)
    for variable in model.weights:
        value = np.ascontiguousarray(backend.to_numpy(variable))
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def checksum(content: bytes) -> str:
    """A digest as text, the same in every process."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def layer_records(model: keras.Model) -> list[Config]:
    """The class and the settings of each layer."""
    return [
        {"type": type(layer).__name__, "given": _layer_settings(layer)}
        for layer in layers_of(model)
    ]


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
    return list(graphs.values())


def differences(
    saved: Config, current: Config, label: str = "{}", strict: bool = True
) -> dict[str, str]:
    """For the name of each setting that differs, a text with both values.

    Args:
        saved: Settings in the backup.
        current: Settings of this script.
        label: What to call a setting in the text; `{}` is its name.
        strict: Whether a setting that only one of them has counts as well.
    """
    return {
        name: f"{label.format(name)}: {_text(saved.get(name))} in the backup, "
        f"{_text(current.get(name))} in this script"
        for name in dict.fromkeys([*saved, *current])
        if (strict or (name in saved and name in current))
        and saved.get(name) != current.get(name)
    }


def _text(value: Json) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def compare_layers(
    saved: list[Config], current: list[Config], strict: bool
) -> tuple[list[str], list[str]]:
    """Compares the `layer_records` of two networks; `strict` as above.

    Returns:
        The differences that change the outputs, and those that matter in
        training only, as text.
    """
    types = [[layer["type"] for layer in each] for each in (saved, current)]
    pairs = itertools.zip_longest(*types, fillvalue="missing")
    for number, (before, now) in enumerate(pairs, 1):
        if before != now:
            what = f"`{before}` in the backup and `{now}` in this script"
            return [f"layer {number} is {what}"], []
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
    """The first difference of two `graph_records`, or none, as text.

    The networks have the same layers.
    """
    if len(saved) != len(current):
        return [
            f"the network has {len(saved)} Functional models in the backup "
            f"and {len(current)} in this script"
        ]
    # The last record of a graph is that of its outputs.
    graphs = zip(saved, current, strict=True)
    pairs = [zip(*both, strict=False) for both in graphs]
    for old, new in itertools.chain(*pairs):
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
            return [f"{what} takes other inputs in this script"]
    return []


def _graph(functional: keras.Model) -> list[Config]:
    calls = keras_compat.calls_of(functional)
    numbers = {id(o): n for n, o in enumerate(functional.operations, 1)}
    sources = {
        id(tensor): [number, position]
        for number, call in enumerate(calls, 1)
        for position, tensor in enumerate(call.outputs)
    }
    records = []
    for call in calls:
        operation = call.operation
        # The same network may be a `Sequential` or a Functional model.
        is_model = isinstance(operation, keras.Model)
        records.append(
            {
                "number": numbers[id(operation)],
                "type": "Model" if is_model else type(operation).__name__,
                "given": _operation_settings(operation),
                "inputs": [
                    _argument(call.arguments.args, sources),
                    _argument(call.arguments.kwargs, sources),
                ],
            }
        )
    outputs = _argument(functional.outputs, sources)
    last = {"number": len(numbers) + 1, "type": "outputs", "given": {}}
    return [*records, {**last, "inputs": outputs}]


def _operation_settings(operation: keras.Operation) -> Config:
    if isinstance(operation, keras.layers.Layer):
        return {}  # In `layer_records`.
    found = {
        name: comparable(value)
        for name, value in public_attributes(operation).items()
        if name not in _SKIPPED
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
    found: Config = {
        "dtype policy": policy_name(layer),
        "trainable": bool(layer.trainable),
    }
    for name in {**attributes, **config}:
        if name not in (*_SKIPPED, "trainable", "dtype"):
            found[name] = _layer_setting(name, attributes, config)
    return {name: value for name, value in found.items() if value is not None}


def _layer_setting(name: str, attributes: Config, config: Config) -> Json:
    value = attributes.get(name)
    if inspect.isroutine(value) or isinstance(value, (np.ndarray, np.generic)):
        return comparable(value)
    if name in attributes and is_plain(value):
        # Keras sets some to None or False, as a layer is made or loaded.
        return None if value is False else value
    # On resuming, it does not matter what a weight was at first.
    if name.endswith("initializer"):
        return None
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

"""What a model consists of, as a digest: its layers and their settings.

Two models of one architecture have the same digest in every process, whatever
their layers are called and whatever their weights are. A model whose layers
are changed in place gets another one.
"""

import hashlib
import json
from typing import Any

import keras

# Keras numbers names, and makes up seeds, anew in every process.
_PASSED_OVER = ("name", "seed")


def architecture(model: Any) -> str:
    """Digest of the classes and configurations of all layers, in order."""
    layers = [
        [type(layer).__name__, _config_of(layer)]
        for layer in model._flatten_layers()
    ]
    text = json.dumps(layers, default=_class_name, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _config_of(layer: Any) -> Any:
    # That of a model is made of those of its layers.
    if isinstance(layer, keras.Model):
        return None
    try:
        return _without_names(layer.get_config())
    except Exception:  # One that cannot be saved.
        return None


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key): _without_names(each)
            for key, each in value.items()
            if key not in _PASSED_OVER
        }
    if isinstance(value, (list, tuple)):
        return [_without_names(each) for each in value]
    return value


def _class_name(value: Any) -> str:
    return type(value).__name__

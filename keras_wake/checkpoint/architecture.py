"""Digests of what a model consists of: the same in every process."""

import hashlib
import json
from typing import Any

from keras_wake.backend import layer_settings


def architecture(model: Any) -> str:
    """Digest of the layers of a model and their settings."""
    layers = [
        [
            type(layer).__name__,
            layer_settings.policy_name(layer),
            layer_settings.plain_settings(layer),
        ]
        for layer in layer_settings.layers_of(model)
    ]
    return checksum(json.dumps(layers, sort_keys=True).encode())


def checksum(content: bytes) -> str:
    """A digest as text."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()

"""What a model consists of: its layers, and how each of them is set.

A setting is a public attribute of a layer that is a number, a text or a list
of such. (`get_config` would be the other way to it, but serialises whatever a
layer holds, a whole PyTorch module for example.) Two questions are answered:
is the model of a file the one at hand, in any process; and has a model been
changed in place since something was compiled for it?
"""

import hashlib
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
        and _is_plain(value)
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))

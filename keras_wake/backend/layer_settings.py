"""The layers of a model, and how each of them is set.

A setting is a public attribute of a layer that is a number, a text or a list
of such. `get_config` is no way to it: it serialises whatever a layer holds, a
whole PyTorch module for example.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_wake.backend import keras_compat
from keras_wake.utils.types import Json

# What Keras notes down in a layer, or chooses anew in every process.
PASSED_OVER = (
    *("built", "training", "call_signature_parameters"),
    *("name", "seed"),
)


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models in it."""
    # A model is left out: what `fit` and `compile` set on it is no setting.
    for layer in keras_compat.flatten_layers(model):
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            yield layer


def policy_name(layer: keras.layers.Layer) -> str:
    """The name of the dtype policy of a layer."""
    return str(getattr(layer.dtype_policy, "name", None))


def plain_settings(layer: keras.layers.Layer) -> Json:
    """The public attributes of a layer that are numbers or texts."""
    return {
        name: value
        for name, value in public_attributes(layer).items()
        # Keras sets some to None or False in one way of making a layer only.
        if value is not None
        and value is not False
        and name not in PASSED_OVER
        and is_plain(value)
    }


def public_attributes(owner: object) -> dict[str, Any]:
    """The public attributes of any object."""
    return {k: v for k, v in vars(owner).items() if not k.startswith("_")}


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, None or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))

"""The layers of a model, and how each of them is set.

A setting is a public attribute of a layer that is a number, a text or a list
of such. (`get_config` would be the other way to it, but serialises whatever a
layer holds, a whole PyTorch module for example.)
"""

import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_wake.backend import keras_compat

# What Keras notes down, and what it makes up anew in every process.
PASSED_OVER = (
    *("built", "training", "call_signature_parameters"),
    *("name", "seed"),
)


def layers_of_now(model: Any) -> tuple:
    """Differs once a layer is another one or set otherwise, in this process.

    Unlike in `architecture`, functions count: an activation, for example.
    """
    return tuple(
        (
            weakref.ref(layer),
            policy_name(layer),
            repr(plain_settings(layer)),
            tuple(_functions(layer)),
        )
        for layer in layers_of(model)
    )


def layers_of(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models in it."""
    # Models are made of
    # them; what `fit` and `compile` set on a model is no setting.
    for layer in keras_compat.flatten_layers(model):
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            yield layer


def policy_name(layer: Any) -> str:
    """The name of the dtype policy of a layer."""
    return str(getattr(layer.dtype_policy, "name", None))


def plain_settings(layer: Any) -> dict[str, Any]:
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


def _functions(layer: Any) -> Iterator[Any]:
    """References that keep nothing alive, unlike an `id` never used again."""
    for value in public_attributes(layer).values():
        if callable(value) and not isinstance(value, keras.layers.Layer):
            try:
                yield weakref.ref(value)
            except TypeError:  # Of C code: it holds no layer.
                yield value


def public_attributes(layer: Any) -> dict[str, Any]:
    """The public attributes of any object."""
    return {k: v for k, v in vars(layer).items() if not k.startswith("_")}


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))

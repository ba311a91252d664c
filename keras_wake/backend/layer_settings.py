"""How the layers of a model are set, and what is kept until that changes.

A setting is a public attribute of a layer that is a number, a text or a list
of such. `get_config` is no way to it: it serialises whatever a layer holds, a
whole PyTorch module for example.
"""

import weakref
from collections.abc import Callable
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


class PerModel:
    """One value for each model, made when it is first asked for.

    It is kept as long as the model lives. A compiled function keeps to the
    layers as they were when it was traced, so what was made for a model is
    made again once a layer is exchanged or set otherwise.

    A copy, and what is unpickled, starts empty: compiled functions can be
    neither copied nor pickled.
    """

    def __init__(self) -> None:
        self._values: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def get(self, model: keras.Model, make: Callable[[Callable], Any]) -> Any:
        """The value of `model`.

        Args:
            model: A `keras.Model`.
            make: Called with a weak reference to the model where it has no
                value yet, or where the model has changed. What it returns
                must not hold the model itself, which would then never be
                freed.
        """
        state, value = self._values.get(model, (None, None))
        if state != layers_fingerprint(model):
            value = make(weakref.ref(model))
            self._values[model] = layers_fingerprint(model), value
        return value

    def __reduce__(self) -> tuple[type, tuple]:
        return PerModel, ()


def layers_fingerprint(model: keras.Model) -> tuple:
    """A value that changes when a layer is replaced or a setting of it changes.

    Valid in this process only. Unlike in `layers_digest`, functions count as
    settings: an activation, for example.
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


def _functions(layer: keras.layers.Layer) -> Iterator[object]:
    """Weak references to the functions that a layer has as attributes.

    They do not keep a function alive, and unlike an `id` they are never reused.
    """
    for value in public_attributes(layer).values():
        if callable(value) and not isinstance(value, keras.layers.Layer):
            try:
                yield weakref.ref(value)
            # A function written in C has no weak references. It holds no
            # layer, so it may be kept.
            except TypeError:
                yield value

"""What is compiled for a model is kept for it, and only as long as it lives.

A compiled function keeps to the layers as they were when it was traced. So what
was made for a model is made again once a layer is exchanged or set otherwise.
"""

import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_wake.backend.layer_settings import layers_of
from keras_wake.backend.layer_settings import plain_settings
from keras_wake.backend.layer_settings import policy_name
from keras_wake.backend.layer_settings import public_attributes


class PerModel:
    """One value for each model, made when it is first asked for.

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
        if state != layers_of_now(model):
            value = make(weakref.ref(model))
            self._values[model] = layers_of_now(model), value
        return value

    def __reduce__(self) -> tuple[type, tuple]:
        return PerModel, ()


def layers_of_now(model: keras.Model) -> tuple:
    """A value that changes when a layer is replaced or a setting of it changes.

    Valid in this process only. Unlike in `architecture`, functions count as
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

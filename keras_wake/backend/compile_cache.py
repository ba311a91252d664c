"""What is compiled for a model is kept for it, and only as long as it lives.

A compiled function keeps to the model as it was when it was traced. So what was
made for a model is made again once a layer of it has other settings, or once
somebody has seen that the model gives something else now.
"""

import weakref
from collections.abc import Callable
from typing import Any

from keras_wake.backend.layer_settings import layers_of_now

# How often `forget_compiled` was called for a model.
_CHANGES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def forget_compiled(model: Any) -> None:
    """Has everything that was compiled for a model made again."""
    _CHANGES[model] = _CHANGES.get(model, 0) + 1


def _state(model: Any) -> tuple:
    return _CHANGES.get(model, 0), layers_of_now(model)


class PerModel:
    """One value for each model, made when it is first asked for.

    A copy, and what is unpickled, starts empty: compiled functions can be
    neither copied nor pickled.
    """

    def __init__(self) -> None:
        self._values: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def get(self, model: Any, make: Callable[[Callable], Any]) -> Any:
        """The value of `model`.

        Args:
            model: A `keras.Model`.
            make: Called with a weak reference to the model where it has no
                value yet, or where the model has changed. What it returns
                must not hold the model itself, which would then never be
                freed.
        """
        found = self.find(model)
        if found is None:
            found = make(weakref.ref(model))
            self.put(model, found)
        return found

    def find(self, model: Any) -> Any:
        """The value of `model`; None without one, or where it has changed."""
        state, value = self._values.get(model, (None, None))
        return value if state == _state(model) else None

    def put(self, model: Any, value: Any) -> None:
        """Makes it the value of `model` as it is now."""
        self._values[model] = _state(model), value

    def __reduce__(self) -> tuple[type, tuple]:
        return PerModel, ()

"""What is compiled for a model is kept for it, and only as long as it lives.

A compiled function keeps to the model as it was when it was traced. So what was
made for a model is made again once a layer of it has other settings, or once
somebody has seen that the model gives something else now.
"""

import weakref
from collections.abc import Callable
from typing import Any

from keras_wake._architecture import architecture

# How often `forget_compiled` was called for a model.
_CHANGES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def forget_compiled(model: Any) -> None:
    """Has everything that was compiled for a model made again."""
    _CHANGES[model] = _CHANGES.get(model, 0) + 1


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
        state = architecture(model), _CHANGES.get(model, 0)
        found = self._values.get(model)
        if found is None or found[0] != state:
            found = self._values[model] = state, make(weakref.ref(model))
        return found[1]

    def __reduce__(self) -> tuple[type, tuple]:
        return PerModel, ()

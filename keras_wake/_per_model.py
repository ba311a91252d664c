"""What is compiled for a model is kept for it, and only as long as it lives."""

import weakref
from collections.abc import Callable
from typing import Any


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
                value yet. What it returns must not hold the model itself,
                which would then never be freed.
        """
        if model not in self._values:
            self._values[model] = make(weakref.ref(model))
        return self._values[model]

    def __reduce__(self) -> tuple[type, tuple]:
        return PerModel, ()

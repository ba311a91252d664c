"""What can be said of the data of `fit` before a batch is taken.

An empty data set is refused before the first step; the form of the labels
decides whether a step has to be compiled again.
"""

from typing import Any

import numpy as np

from keras_wake import _inputs


def label_spec(x: Any, y: Any) -> Any:
    """Shape and dtype of one label, where they are known without a batch.

    A compiled step that is given labels of another form drops what it knew
    of their shape instead of being compiled again.
    """
    if y is None:
        spec = getattr(x, "element_spec", None)
        y = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not hasattr(y, "shape") or not hasattr(y, "dtype"):
        return None
    return str(y.shape[1:]), _inputs.number_type(y)


def batches(given: dict[str, Any]) -> dict[str, Any]:
    """What is known of the batches of `fit` without taking one.

    Args:
        given: Arguments of `fit`, by name.
    """
    x: Any = given.get("x")
    found = {
        name: given.get(name) for name in ("steps_per_epoch", "class_weight")
    }
    if _inputs_are_arrays(x):
        found["batch_size"] = given.get("batch_size") or 32
    else:
        for name in ("batch_size", "_batch_size"):
            size = getattr(x, name, None)
            if isinstance(size, int):
                found["batch_size"] = size
                break
        count = x.cardinality() if hasattr(x, "cardinality") else None
        if count is None and hasattr(x, "__len__"):
            count = len(x)
        if count is not None and int(count) > 0:
            found["batches"] = int(count)
    return {name: _number(value) for name, value in found.items()}


def _inputs_are_arrays(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _number(value: Any) -> Any:
    """A number as it is, anything else as a text: for JSON."""
    value = value.item() if isinstance(value, np.generic) else value
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain else str(value)


def check_not_empty(data: Any) -> None:
    """Refuses data of which it is known that there are none."""
    if isinstance(data, (tuple, list)) and data:
        data = data[0]
    size = None
    if hasattr(data, "cardinality"):
        size = int(data.cardinality())
    elif hasattr(data, "shape"):
        size = data.shape[0]
    if size == 0:
        raise ValueError(
            "The data set is empty: it has no images. Received: "
            f"{type(data).__name__} of size 0."
        )

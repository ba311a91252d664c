"""What can be said of the data of `fit` before a batch is taken.

An empty data set, batches that devices cannot share, the form of the labels:
known from shapes, and therefore refused before the first step.
"""

from typing import Any

from keras_wake import _inputs
from keras_wake import backend


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


def check_divisible(given: dict[str, Any]) -> None:
    """Refuses batches of arrays that JAX cannot divide among its devices.

    It would do so itself, at the last batch of the pass and without a hint.
    """
    _, _, devices = backend.data_shard()
    batch_size = given.get("batch_size") or 32
    validation = given.get("validation_data")
    passes = [("x", given.get("x"), batch_size)]
    if isinstance(validation, (tuple, list)) and validation:
        own = given.get("validation_batch_size") or batch_size
        passes.append(("validation_data", validation[0], own))
    for name, images, size in passes:
        shape = getattr(images, "shape", None)
        if devices == 1 or not shape or given.get("validation_split"):
            continue
        last = shape[0] % size
        if size % devices or last % devices:
            raise ValueError(
                f"JAX divides each batch of `{name}` evenly among the "
                f"{devices} devices of this process. Received: {shape[0]} "
                f"images in batches of {size}, the last one of "
                f"{last or size}. Choose multiples of {devices}, or take the "
                "data sets of `keras_wake.datasets`, which see to it."
            )

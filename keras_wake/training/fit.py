"""What `fit` and `evaluate` do before Keras runs.

They check, convert and describe the data. Wrong arrays, an empty data set and
one that never ends are refused before the first step. The checks of one array,
one batch and one data set are in `keras_wake.data`; this module chooses the
checks that each argument needs.
"""

import contextlib
import itertools
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.backend import numerics
from keras_wake.data import arrays
from keras_wake.data.arrays import ImageShape
from keras_wake.data.batches import check_ends
from keras_wake.data.batches import check_structure
from keras_wake.data.sharding import ShardedBatches
from keras_wake.utils import validate
from keras_wake.utils.labels import int32_labels
from keras_wake.utils.labels import with_int32_labels
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor

PARTS = ("x", "y", "sample_weight")
ENDLESS = {
    "x": "Set the number of batches to take: `steps_per_epoch` of `fit`, "
    "`steps` of `evaluate` and `predict`.",
    "validation_data": "Set `validation_steps`, the number of batches to take.",
}


def label_spec(x: Dataset, y: Tensor) -> tuple[str, str] | None:
    """Shape and dtype of one label, if known without taking a batch.

    If they change between two calls, the step is compiled again. Otherwise
    TensorFlow would trace it with labels of unknown shape.
    """
    if y is None:
        spec = getattr(x, "element_spec", None)
        y = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not hasattr(y, "shape") or not hasattr(y, "dtype"):
        return None
    return str(y.shape[1:]), arrays.number_type(y)


def data_settings(given: dict[str, Any]) -> dict[str, Json]:
    """How `fit` uses its data, for the backup to compare on resume.

    Args:
        given: Arguments of `fit`, by name.

    Returns:
        `steps_per_epoch`, `class_weight` and whether there are sample
        weights; the number of images in arrays; and the batch size and number
        of batches, if known without taking a batch.
    """
    x: Dataset = given.get("x")
    found = {
        name: given.get(name) for name in ("steps_per_epoch", "class_weight")
    }
    parts = getattr(x, "element_spec", None)
    found["sample_weight"] = given.get("sample_weight") is not None or (
        isinstance(parts, tuple) and len(parts) > 2
    )
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        found["images"] = int(x.shape[0])
        found["batch_size"] = given.get("batch_size") or 32
    else:
        # `tf.data` has it under the second name.
        for name in ("batch_size", "_batch_size"):
            if isinstance(getattr(x, name, None), int):
                found.setdefault("batch_size", getattr(x, name))
        count = x.cardinality() if hasattr(x, "cardinality") else None
        if count is None and hasattr(x, "__len__"):
            # `len` of a `DataLoader` over an `IterableDataset` raises.
            with contextlib.suppress(TypeError):
                count = len(x)
        if count is not None and int(count) > 0:
            found["batches"] = int(count)
    return {name: _number(value) for name, value in found.items()}


def _number(value: object) -> Json:
    """A number as it is, anything else as text."""
    value = value.item() if isinstance(value, np.generic) else value
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain else str(value)


def check(given: dict[str, Any], shape: ImageShape, num_classes: int) -> None:
    """Checks the data among the arguments of `fit`, `evaluate` or a batch.

    Args:
        given: The arguments by name, which are changed: columns of data
            frames become arrays, 64-bit labels become int32, and a generator
            becomes a new one of the same batches, the first of them checked.
        shape: The shape that the classifier takes.
        num_classes: K.

    Raises:
        TypeError, ValueError: For data that cannot be right.
    """
    numerics.check_floatx()
    steps = given.get("steps_per_epoch") or given.get("steps")
    parts = {name: given.get(name) for name in PARTS}
    given.update(_checked(parts, steps, shape, num_classes))
    _check_class_weight(given.get("class_weight"), num_classes)
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(
                "`validation_data` must be (x, y), (x, y, sample_weight) or a "
                "data set. Received: a "
                f"{type(validation).__name__} of {len(validation)}."
            )
        parts = dict(zip(PARTS, validation, strict=False))
        found = _checked(parts, None, shape, num_classes, "validation_data")
        values = tuple(found.values())
        given["validation_data"] = values if len(values) > 1 else values[0]
    elif validation is not None:
        steps = given.get("validation_steps")
        parts = {"x": validation}
        found = _checked(parts, steps, shape, num_classes, "validation_data")
        given["validation_data"] = found["x"]
    _check_passes(given)


def check_images(x: Any, shape: ImageShape, steps: int | None = None) -> None:
    """Checks the images, or the data set, of `predict`."""
    x = arrays.as_array(x)
    if _is_data_set(x):
        _check_size(x, "x", steps)
    else:
        arrays.check_numbers("Images", x)
        shape.check(x)
        _check_not_empty(x)


def _checked(
    parts: dict[str, Any],
    steps: int | None,
    shape: ImageShape,
    num_classes: int,
    name: str = "x",
) -> dict[str, Any]:
    """Checks images, labels and weights, or a data set, and returns them."""
    parts = {
        key: arrays.as_array(value)
        for key, value in parts.items()
        if value is not None
    }
    x, y = parts.get("x"), parts.get("y")
    weights = parts.get("sample_weight")
    if not _is_data_set(x):
        _check_arrays(x, y, weights, shape, num_classes)
        _check_not_empty(x)
        return parts | {"y": int32_labels(y)}
    if y is not None or weights is not None:
        raise ValueError(
            f"A {type(x).__name__} yields (images, labels) or (images, "
            "labels, weights): leave `y` and `sample_weight` out."
        )
    _check_size(x, name, steps)
    spec = getattr(x, "element_spec", None)
    if spec is not None and _has_known_shapes(spec):
        _check_batch(spec, x, shape, num_classes)
    if isinstance(x, types.GeneratorType):
        parts["x"] = _with_first_checked(x, shape, num_classes)
    return parts


def _is_data_set(x: Any) -> bool:
    """Whether `x` yields batches, rather than being an array.

    Refuses an iterator that is no generator, as Keras does.
    """
    if hasattr(x, "element_spec") or isinstance(x, keras.utils.PyDataset):
        return True
    if hasattr(x, "__next__") and not isinstance(x, types.GeneratorType):
        raise TypeError(
            "Keras takes batches from a generator, but not from another "
            f"iterator. Received: {type(x).__name__}. Pass "
            "`(batch for batch in ...)`."
        )
    if isinstance(x, (str, bytes, list, tuple, dict, set, type(None))):
        return False
    if hasattr(x, "shape") or hasattr(x, "__array__"):
        return False
    # Keras's data adapters have the last of these methods.
    iterates = ("__iter__", "__getitem__", "get_numpy_iterator")
    return any(hasattr(x, name) for name in iterates)


def _has_known_shapes(spec: object) -> bool:
    """Whether `spec` has shapes of batches; a `PerReplica` spec has none."""
    return not any(
        not hasattr(part, "shape") or arrays.rank_is_unknown(part)
        for part in keras.tree.flatten(spec)
    )


def _check_arrays(
    x: Tensor, y: Tensor, weights: Tensor, shape: ImageShape, num_classes: int
) -> None:
    arrays.check_images(x, shape)
    arrays.check_labels(y, num_classes)
    if weights is not None:
        arrays.check_weights(weights)
    arrays.check_lengths(images=x, labels=y, sample_weights=weights)


def _check_batch(
    batch: Any, data: Dataset, shape: ImageShape, num_classes: int
) -> None:
    """Checks a batch of `data`, or its `element_spec`."""
    check_structure(data, batch)
    if len(batch) > 3:
        raise ValueError(
            "The data must yield (images, labels) or (images, labels, "
            f"weights). Received: batches of {len(batch)} parts."
        )
    x, y, weights = (*batch, None)[:3]
    _check_arrays(x, y, weights, shape, num_classes)


def _with_first_checked(
    generator: Iterator, shape: ImageShape, num_classes: int
) -> Iterator:
    """A generator of the same batches, after a check of the first."""
    first = list(itertools.islice(generator, 1))
    if not first:
        _refuse_empty(generator)
    _check_batch(first[0], generator, shape, num_classes)
    # Keras takes a generator, and not a `map`.
    return (
        with_int32_labels(batch) for batch in itertools.chain(first, generator)
    )


def _check_size(x: Dataset, name: str, steps: int | None) -> None:
    """Refuses a data set that is known to be empty or infinite."""
    if hasattr(x, "cardinality") and int(x.cardinality()) == 0:
        _refuse_empty(x)
    if not steps:
        check_ends(x, ENDLESS[name])


def _check_not_empty(x: Tensor) -> None:
    if x.shape[0] == 0:
        _refuse_empty(x)


def _refuse_empty(x: object) -> None:
    raise ValueError(
        "The data set is empty: it has no images. Received: "
        f"{type(x).__name__} of size 0."
    )


def _check_passes(given: dict[str, Any]) -> None:
    """Refuses a generator that `fit` would have to read more than once."""
    first = given.get("initial_epoch") or 0
    epochs = given.get("epochs", 1) - first
    if given.get("steps_per_epoch") is None:
        _check_read_once("x", given.get("x"), epochs, "steps_per_epoch")
    every = given.get("validation_freq", 1)
    if given.get("validation_steps") is None and isinstance(every, int):
        _check_read_once(
            "validation_data",
            given.get("validation_data"),
            epochs // max(every, 1),
            "validation_steps",
        )


def _check_read_once(name: str, data: Dataset, times: int, steps: str) -> None:
    if isinstance(data, types.GeneratorType) and times > 1:
        raise ValueError(
            f"A generator gives its batches only once, and this `fit` needs "
            f"`{name}` {times} times. Pass arrays or a data set that can be "
            f"read again, or set `{steps}` for a generator that never ends."
        )


def _check_class_weight(class_weight: object, num_classes: int) -> None:
    """Refuses weights of classes that do not exist; Keras ignores them."""
    if class_weight is None:
        return
    if not isinstance(class_weight, dict):
        raise TypeError(
            "`class_weight` must be a dictionary from class numbers to "
            f"weights. Received: {type(class_weight).__name__}. Make it one: "
            "`dict(enumerate(weights))`."
        )
    for label, weight in class_weight.items():
        known = not isinstance(label, bool) and label in range(num_classes)
        if not known:
            raise ValueError(
                "The keys of `class_weight` must be class numbers between 0 "
                f"and {num_classes - 1}. Received: {label!r}."
            )
        validate.not_negative(class_weight=weight)


def check_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    """Refuses an optimizer that was made for other variables.

    Args:
        optimizer: A Keras optimizer.
        variables: Those that `fit` is to train.

    Raises:
        ValueError: If other layers are trainable than at the first step.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "built", False):
        return
    before = keras_compat.trained_variables(optimizer)
    if [id(v) for v in variables] != [id(v) for v in before]:
        raise ValueError(
            "The trainable layers have changed since the last training: "
            "call `compile` again, with a new optimizer. Received: "
            f"{len(variables)} trainable variables, and {len(before)} before."
        )


def set_shuffle(given: dict[str, Any]) -> None:
    """Leaves the order to data that shuffle by themselves.

    With its default, Keras would warn.

    Args:
        given: The arguments of `fit` by name, which are changed.
    """
    x = given.get("x")
    if isinstance(x, ShardedBatches):
        given["shuffle"] = False
    elif given.get("y") is None and not isinstance(x, keras.utils.PyDataset):
        given.setdefault("shuffle", False)


@contextlib.contextmanager
def metrics_kept(model: keras.Model) -> Iterator[None]:
    """Puts the values of a model's metrics back at the end."""
    model.sync_variables()
    kept = [
        (variable, backend.to_numpy(variable))
        for metric in model.metrics
        for variable in metric.variables
    ]
    try:
        yield
    finally:
        model.sync_variables()
        for variable, value in kept:
            variable.assign(value)

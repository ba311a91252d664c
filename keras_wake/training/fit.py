"""What `fit` and `evaluate` do with their arguments before Keras runs.

Wrong arrays, an empty data set and one that never ends are refused before the
first step. The checks themselves are in `keras_wake.data`; this module chooses
those that each argument needs.
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
from keras_wake.data.batches import number_of_batches
from keras_wake.data.sharding import ShardedBatches
from keras_wake.schedules import Schedule
from keras_wake.training.guard import BatchGuard
from keras_wake.utils import validate
from keras_wake.utils.labels import int32_labels
from keras_wake.utils.labels import with_int32_labels
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor

PARTS = ("x", "y", "sample_weight")
ADVICE_IF_ENDLESS = {
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

    Sizes are among them if they are known without taking a batch.
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
        count = number_of_batches(x)
        if count is not None:
            found["batches"] = count
    return {name: _number(value) for name, value in found.items()}


def _number(value: object) -> Json:
    """A number as it is, anything else as text."""
    value = value.item() if isinstance(value, np.generic) else value
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain else str(value)


def check(given: dict[str, Any], guard: BatchGuard) -> None:
    """Checks the data among the arguments of `fit`, `evaluate` or a batch.

    Args:
        given: The arguments by name, which are changed: columns of data
            frames become arrays, 64-bit labels become int32, and a generator
            becomes a new one of the same batches, the first of them checked.
        guard: Knows what the classifier takes.

    Raises:
        TypeError, ValueError: For data that cannot be right.
    """
    numerics.check_floatx()
    steps = given.get("steps_per_epoch") or given.get("steps")
    parts = {name: given.get(name) for name in PARTS}
    given.update(_checked(parts, steps, guard))
    _check_class_weight(given.get("class_weight"), guard.num_classes)
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(
                "`validation_data` must be (x, y), (x, y, sample_weight) or a "
                "data set. Received: a "
                f"{type(validation).__name__} of {len(validation)}."
            )
        parts = dict(zip(PARTS, validation, strict=False))
        found = _checked(parts, None, guard, "validation_data")
        values = tuple(found.values())
        given["validation_data"] = values if len(values) > 1 else values[0]
    elif validation is not None:
        steps = given.get("validation_steps")
        found = _checked({"x": validation}, steps, guard, "validation_data")
        given["validation_data"] = found["x"]
    _check_generators(given)


def check_images(x: Any, shape: ImageShape, steps: int | None = None) -> None:
    """Checks the images, or the data set, of `predict`."""
    x = arrays.as_array(x)
    if _is_data_set(x):
        _check_size(x, "x", steps)
    else:
        arrays.check_numbers("Images", x)
        shape.check(x)
        _check_not_empty(x, x.shape[0])


def _checked(
    parts: dict[str, Any],
    steps: int | None,
    guard: BatchGuard,
    name: str = "x",
) -> dict[str, Any]:
    """Checks images, labels and weights, or a data set, and returns them."""
    parts = {
        key: arrays.as_array(value)
        for key, value in parts.items()
        if value is not None
    }
    x: Any = parts.get("x")
    y = parts.get("y")
    weights = parts.get("sample_weight")
    if not _is_data_set(x):
        _check_arrays(x, y, weights, guard)
        _check_not_empty(x, x.shape[0])
        return parts | {"y": int32_labels(y)}
    if y is not None or weights is not None:
        raise ValueError(
            f"A {type(x).__name__} yields (images, labels) or (images, "
            "labels, weights): leave `y` and `sample_weight` out."
        )
    _check_size(x, name, steps)
    spec = getattr(x, "element_spec", None)
    # A `PerReplica` spec has no shapes of batches.
    if spec is not None and not any(
        not hasattr(part, "shape") or arrays.rank_is_unknown(part)
        for part in keras.tree.flatten(spec)
    ):
        _check_batch(spec, x, guard)
    if isinstance(x, types.GeneratorType):
        parts["x"] = _with_first_checked(x, guard)
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


def _check_arrays(
    x: Tensor, y: Tensor, weights: Tensor, guard: BatchGuard
) -> None:
    arrays.check_images(x, guard.image_shape)
    arrays.check_labels(y, guard.num_classes)
    if weights is not None:
        arrays.check_weights(weights)
    arrays.check_lengths(images=x, labels=y, sample_weights=weights)


def _check_batch(batch: Any, data: Dataset, guard: BatchGuard) -> None:
    """Checks a batch of `data`, or its `element_spec`."""
    check_structure(data, batch)
    if len(batch) > 3:
        raise ValueError(
            "The data must yield (images, labels) or (images, labels, "
            f"weights). Received: batches of {len(batch)} parts."
        )
    x, y, weights = (*batch, None)[:3]
    _check_arrays(x, y, weights, guard)


def _with_first_checked(generator: Iterator, guard: BatchGuard) -> Iterator:
    """A generator of the same batches, after a check of the first."""
    first = list(itertools.islice(generator, 1))
    _check_not_empty(generator, len(first))
    _check_batch(first[0], generator, guard)
    # Keras takes a generator, and not a `map`.
    return (
        with_int32_labels(batch) for batch in itertools.chain(first, generator)
    )


def _check_size(x: Dataset, name: str, steps: int | None) -> None:
    """Refuses a data set that is known to be empty or infinite."""
    if hasattr(x, "cardinality"):
        _check_not_empty(x, int(x.cardinality()))
    if not steps:
        check_ends(x, ADVICE_IF_ENDLESS[name])


def _check_not_empty(x: object, size: int) -> None:
    if size == 0:
        raise ValueError(
            "The data set is empty: it has no images. Received: "
            f"{type(x).__name__} of size 0."
        )


def _check_generators(given: dict[str, Any]) -> None:
    """Refuses a generator that `fit` would have to read in every epoch."""
    epochs = given.get("epochs", 1) - (given.get("initial_epoch") or 0)
    for name, steps in (
        ("x", "steps_per_epoch"),
        ("validation_data", "validation_steps"),
    ):
        generator = isinstance(given.get(name), types.GeneratorType)
        if generator and epochs > 1 and given.get(steps) is None:
            raise ValueError(
                "A generator gives its batches only once, and this `fit` has "
                f"{epochs} epochs. Received: a generator as `{name}`. Pass "
                "arrays or a data set that can be read again, or set "
                f"`{steps}` for a generator that never ends."
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
        if isinstance(label, bool) or label not in range(num_classes):
            raise ValueError(
                "The keys of `class_weight` must be class numbers between 0 "
                f"and {num_classes - 1}. Received: {label!r}."
            )
        validate.not_negative(class_weight=weight)


def check_schedule(schedule: object) -> Schedule | None:
    """The schedule, if it is one or `None`."""
    if not isinstance(schedule, (Schedule, type(None))):
        raise TypeError(
            "`schedule` must be a `DistillationRamp`, an `AdaptiveRamp` or "
            f"None. Received: schedule={schedule!r}."
        )
    return schedule


def check_no_loss(loss: object, loss_weights: object) -> None:
    """Refuses the loss that `compile` of another model would take."""
    if loss is not None or loss_weights is not None:
        raise ValueError(
            "WakeModel computes its own loss from its objective. Leave the "
            "loss and its weights out, or pass `WakeModel(..., objective=)`. "
            f"Received: loss={loss!r}, loss_weights={loss_weights!r}."
        )


def check_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    """Refuses an optimizer that was made for other trainable variables."""
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
    """Leaves the order to data that shuffle themselves; Keras would warn."""
    x = given.get("x")
    if isinstance(x, ShardedBatches):
        given["shuffle"] = False
    elif given.get("y") is None and not isinstance(x, keras.utils.PyDataset):
        given.setdefault("shuffle", False)


@contextlib.contextmanager
def metrics_kept(model: keras.Model) -> Iterator[None]:
    """Puts the values of a model's metrics back at the end."""
    model.sync_variables()
    variables = model.metrics_variables
    kept = [backend.to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        model.sync_variables()
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)

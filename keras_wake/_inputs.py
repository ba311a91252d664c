"""Checks of what the user hands in: a classifier, images and labels.

Shapes and dtypes are checked once, when a step is traced. Values (NaN, out of
bounds, labels that no class has) are counted by tensors, so that every batch
of every kind of data set is looked at without leaving the compiled step.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

# Rounding of resizing or normalising makes values like -3e-8.
BOUNDS_TOLERANCE = 1e-6


def check_classifier(classifier: Any) -> int:
    """Checks that a built model maps images to logits.

    Args:
        classifier: Anything; a built `keras.Model` is what is wanted.

    Returns:
        K, the number of classes.

    Raises:
        TypeError: If it is no `keras.Model`.
        ValueError: If it is not built, if it has several inputs or outputs,
            if its output is not (batch, K), or if it returns probabilities.
    """
    if not isinstance(classifier, keras.Model):
        raise TypeError(
            "`classifier` must be a `keras.Model` that maps images to logits. "
            f"Received: {classifier!r} (of type {type(classifier).__name__})."
        )
    shape = _input_shape(classifier)
    if not classifier.built or shape is None:
        raise ValueError(
            f"The classifier {classifier.name!r} is not built yet. Call it on "
            "a batch of images, or `build` it, before you pass it on."
        )
    if not isinstance(shape, tuple):
        raise ValueError(
            f"The classifier {classifier.name!r} must take one batch of "
            f"images. Received: a classifier with inputs of shape {shape!r}."
        )
    # Four fixed random images; an unknown height or width is taken as 32.
    sizes = [32 if size is None else size for size in shape[1:]]
    probe = np.random.default_rng(0).uniform(size=(4, *sizes))
    probe = ops.convert_to_tensor(probe, "float32")
    try:
        logits = classifier(probe, training=False)
    except Exception as error:
        raise ValueError(
            f"The classifier {classifier.name!r} could not be called on 4 "
            f"images of shape {tuple(sizes)}. It must take batches of any "
            f"size: leave the batch axis free. Its error: {error}"
        ) from error
    logits_shape = getattr(logits, "shape", None)
    if logits_shape is None or len(logits_shape) != 2 or logits_shape[1] < 2:
        raise ValueError(
            f"The classifier {classifier.name!r} must return logits of shape "
            "(batch, K) with K ≥ 2 classes. Received: an output of shape "
            f"{tuple(logits_shape or ()) or type(logits).__name__}."
        )
    values = ops.convert_to_numpy(ops.cast(logits, "float32"))
    if np.all(values >= 0) and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        raise ValueError(
            f"The classifier {classifier.name!r} returns probabilities, not "
            "logits: its outputs are not negative and sum to 1. Remove the "
            "softmax (`activation=None` in the last layer); gradients of an "
            "attack vanish behind it."
        )
    # The layers of a subclassed model are in no order.
    last = classifier.layers[-1] if hasattr(classifier, "outputs") else None
    if getattr(last, "activation", None) is keras.activations.sigmoid:
        raise ValueError(
            f"The classifier {classifier.name!r} returns the sigmoid of its "
            "logits. Remove it (`activation=None` in the last layer)."
        )
    return int(logits_shape[1])


def _input_shape(classifier: keras.Model) -> Any:
    """The tuple of one input's sizes; something else for several inputs."""
    try:
        return classifier.input_shape
    except AttributeError:
        shapes = getattr(classifier, "_build_shapes_dict", None)
    if not shapes or len(shapes) > 1:
        return shapes or None
    (shape,) = shapes.values()
    # A loaded model has a list, as JSON has no tuples.
    sizes = isinstance(shape, (tuple, list)) and all(
        size is None or isinstance(size, int) for size in shape
    )
    return tuple(shape) if sizes else shape


def check_rank(x: Any, classifier: keras.Model) -> None:
    """Checks that images have as many axes as a checked classifier takes.

    Keras adds or drops a last axis of size 1; a compiled attack cannot.
    """
    expected = _input_shape(classifier)
    if len(x.shape) != len(expected):
        sizes = ", ".join(str(size) for size in expected[1:])
        raise ValueError(
            f"Images must have shape (batch, {sizes}), as the classifier "
            f"{classifier.name!r} takes them. Received: shape "
            f"{tuple(x.shape)}."
        )


def check_images(x: Any) -> Any:
    """Checks dtype and rank of images and returns them as float32.

    Raises:
        TypeError: If they are not floating-point numbers.
        ValueError: If they are not a batch.
    """
    if not hasattr(x, "dtype"):
        raise TypeError(
            "Images must be one tensor or array of shape (batch, ...). "
            f"Received: {type(x).__name__}."
        )
    if len(x.shape) < 2:
        raise ValueError(
            "Images must have shape (batch, ...). Received: shape "
            f"{tuple(x.shape)}."
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(
            "Images must be floating-point numbers within the bounds of the "
            f"threat model, [0, 1] by default. Received: dtype {dtype}. "
            'Convert them: `x.astype("float32") / 255`.'
        )
    # Not a cast, which on PyTorch would leave them on the host.
    return ops.convert_to_tensor(x, "float32")


def one_hot_labels(y: Any, num_classes: int) -> Any:
    """Brings every accepted form of labels to float32 (batch, K).

    Args:
        y: Integer tensor (batch,) or (batch, 1), or one-hot or soft labels
            of shape (batch, K).
        num_classes: K.

    Returns:
        Float32 tensor (batch, K). A label out of range gives a row of zeros,
        which `count_faults` finds.

    Raises:
        TypeError: If labels of rank 1 are not integers.
        ValueError: If they are missing or their shape fits no form.
    """
    if y is None:
        raise ValueError("Labels are missing: the data must yield (x, y).")
    shape = tuple(y.shape)
    dtype = _number_type(y)
    if len(shape) == 2 and shape[1] == num_classes:
        return ops.convert_to_tensor(y, "float32")
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        if not keras.backend.is_int_dtype(dtype):
            raise TypeError(
                f"Labels of shape {shape} are class numbers and must be "
                f"integers. Received: dtype {dtype}. Convert them: "
                '`y.astype("int32")`.'
            )
        labels = ops.reshape(ops.convert_to_tensor(y, "int32"), (-1,))
        # Compared by hand: what `ops.one_hot` does with a label that no
        # class has differs from backend to backend.
        classes = ops.arange(num_classes, dtype="int32")
        return ops.cast(labels[:, None] == classes[None, :], "float32")
    raise ValueError(
        "Labels must be class numbers of shape (batch,) or one-hot or soft "
        f"labels of shape (batch, {num_classes}). Received: shape {shape}."
    )


def _number_type(y: Any) -> str:
    try:
        dtype = keras.backend.standardize_dtype(y.dtype)
    except ValueError:  # NumPy's words
        dtype = "string"
    if dtype == "string":
        raise TypeError(
            "Labels must be class numbers, or one-hot or soft labels. "
            "Received: strings. Number the classes: "
            "`np.unique(y, return_inverse=True)[1]`."
        )
    return dtype


def check_weights(sample_weight: Any) -> Any:
    """Checks that there is one weight for each sample, as float32 (batch,)."""
    shape = tuple(sample_weight.shape)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(
            "`sample_weight` must have one number for each image, shape "
            f"(batch,). Received: shape {shape}."
        )
    weights = ops.convert_to_tensor(sample_weight, "float32")
    return ops.reshape(weights, (-1,))


def count_faults(x: Any, labels: Any, bounds: tuple[float, float]) -> Any:
    """Counts the samples of a batch that cannot be right.

    Args:
        x: Float tensor (batch, ...), images.
        labels: Float tensor (batch, K) as `one_hot_labels` returns it.
        bounds: Smallest and largest pixel value.

    Returns:
        Float32 tensor (3,): images with NaN or infinity, images outside the
        bounds, labels that name no class.
    """
    low, high = bounds
    axes = tuple(range(1, len(x.shape)))
    finite = ops.all(ops.isfinite(x), axis=axes)
    smallest, largest = ops.min(x, axis=axes), ops.max(x, axis=axes)
    outside = ops.logical_or(
        smallest < low - BOUNDS_TOLERANCE, largest > high + BOUNDS_TOLERANCE
    )
    # Written so that a NaN in soft labels is a fault, too.
    named = ops.logical_and(
        ops.abs(ops.sum(labels, axis=-1) - 1) < 1e-3,
        ops.min(labels, axis=-1) >= -BOUNDS_TOLERANCE,
    )
    faults = [
        ops.logical_not(finite),
        ops.logical_and(finite, outside),
        ops.logical_not(named),
    ]
    return ops.stack([ops.sum(ops.cast(f, "float32")) for f in faults])


class InputFaults(keras.metrics.Metric):
    """The faults of all batches since the last reset, over all replicas.

    The losses that are not finite as well, which are read at the same time.

    A metric, because that is the state that adds up over replicas and that
    no checkpoint holds. It has no entry in the logs.
    """

    def __init__(self) -> None:
        super().__init__(name="input_faults", dtype="float32")
        # One variable: reading it waits for all replicas, once a step. It
        # holds the faults of images and labels, batches without an image,
        # sample weights that cannot be right, and losses.
        self.counts = self.add_variable((6,), initializer="zeros")

    def update_state(self, faults: Any, size: Any, bad_weights: Any) -> None:
        """Adds a batch.

        Args:
            faults: What `count_faults` returns.
            size: Number of images.
            bad_weights: Number of sample weights that cannot be right.
        """
        empty = ops.cast(ops.equal(size, 0), "float32")
        others = ops.stack([empty, bad_weights, ops.zeros(())])
        self.counts.assign_add(ops.concatenate([faults, others]))

    def count_loss(self, loss: Any) -> None:
        """Counts a step of training whose loss is NaN or infinite."""
        bad = ops.cast(ops.logical_not(ops.isfinite(loss)), "float32")
        self.counts.assign_add(ops.pad(ops.reshape(bad, (1,)), [[5, 0]]))

    def result(self) -> dict[str, Any]:
        """Nothing for the logs."""
        return {}


def raise_for_faults(
    faults: Any, bounds: tuple[float, float], num_classes: int, where: str
) -> None:
    """Raises a `ValueError` that names what `count_faults` has counted."""
    not_finite, outside, unnamed = (int(count) for count in faults)
    if not_finite:
        raise ValueError(
            f"{not_finite} image(s) {where} contain NaN or infinity. Remove "
            "them or find the step of the input pipeline that makes them."
        )
    if outside:
        low, high = bounds
        raise ValueError(
            f"{outside} image(s) {where} lie outside the bounds [{low:g}, "
            f"{high:g}] of the threat model. Scale the images to the bounds "
            "(divide by 255), or pass `bounds=` to the attack; normalise "
            "inside the classifier."
        )
    if unnamed:
        raise ValueError(
            f"{unnamed} label(s) {where} name no class. Class numbers must be "
            f"between 0 and {num_classes - 1}; one-hot and soft labels must "
            "be at least 0 and sum to 1."
        )


def batches(data: Any, batch_size: int = 128) -> Iterator[tuple[Any, Any]]:
    """Yields (images, labels) from arrays or from anything that yields them.

    Args:
        data: Pair of arrays (x, y), a data set, or an iterable of batches.
        batch_size: How arrays are cut. Defaults to `128`.

    Raises:
        ValueError: If there is nothing to yield.
        TypeError: If `data` is neither.
    """
    if _is_pair_of_arrays(data):
        x, y = data
        _check_lengths(x, y)
        starts = range(0, len(x), batch_size)
        pairs: Iterable = (
            (x[i : i + batch_size], y[i : i + batch_size]) for i in starts
        )
    elif hasattr(data, "__iter__"):
        pairs = data
    else:
        raise TypeError(
            "`data` must be a pair of arrays (x, y) or yield batches "
            "(images, labels). "
            f"Received: {type(data).__name__}."
        )
    empty = True
    for batch in pairs:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(
                "`data` must be a pair of arrays (x, y) or yield batches "
                f"(images, labels). Received: a {type(data).__name__} that "
                f"yields a {type(batch).__name__}."
            )
        empty = False
        yield _without_padding(*batch[:3])
    if empty:
        raise ValueError("The data set is empty: it yields no batch.")


def _without_padding(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
    """The images of a batch whose weight is not 0."""
    if weights is None:
        return x, y
    present = np.flatnonzero(ops.convert_to_numpy(weights))
    if len(present) == len(x):
        return x, y
    return ops.take(x, present, axis=0), ops.take(y, present, axis=0)


def check_reusable(owner: str, data: Any) -> None:
    """Refuses what gives its batches only once, where they are needed again."""
    if hasattr(data, "__next__"):
        raise ValueError(
            f"`{owner}` needs its data more than once, and this "
            f"{type(data).__name__} gives them only once. Pass "
            f"`{owner}(data=(x, y))` or a data set that can be read again."
        )


def _is_pair_of_arrays(data: Any) -> bool:
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(len(getattr(part, "shape", ())) > 0 for part in data)
    )


def checked_batches(
    data: Any,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int = 128,
) -> Iterator[tuple[Any, Any]]:
    """`batches`, as float32 images and (batch, K) labels, values checked."""
    for number, (x, y) in enumerate(batches(data, batch_size), start=1):
        where = f"of batch {number}"
        yield checked_batch(x, y, num_classes, bounds, where)


def checked_batch(
    x: Any, y: Any, num_classes: int, bounds: tuple[float, float], where: str
) -> tuple[Any, Any]:
    """One batch as float32 images and (batch, K) labels, values checked."""
    x = check_images(x if x is None else ops.convert_to_tensor(x))
    if hasattr(y, "dtype"):
        _number_type(y)
    y = y if y is None else ops.convert_to_tensor(y)
    labels = one_hot_labels(y, num_classes)
    _check_lengths(x, labels)
    if len(x) == 0:
        raise ValueError(f"There are no images: the size {where} is 0.")
    faults = ops.convert_to_numpy(count_faults(x, labels, bounds))
    raise_for_faults(faults, bounds, num_classes, where)
    return x, labels


def _check_lengths(x: Any, y: Any) -> None:
    if len(x) != len(y):
        raise ValueError(
            "Images and labels must be equally many. Received: "
            f"{len(x)} images and {len(y)} labels."
        )

"""Checks of what the user hands in: a classifier, images and labels.

These are checks of shapes and dtypes, made once, when a step is traced. The
values are looked at in `_faults`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake.backend import keras_compat
from keras_wake.backend import numerics
from keras_wake.data.image_shape import ImageShape
from keras_wake.data.image_shape import rank_is_unknown
from keras_wake.utils import array_checks


def check_classifier(classifier: Any, allow_probabilities: bool = False) -> int:
    """Checks that a built model maps images to logits.

    Args:
        classifier: Anything; a built `keras.Model` is what is wanted.
        allow_probabilities: Whether the outputs may have gone through a
            softmax. Defaults to `False`.

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
    refuse_wake_model(classifier)
    _check_preprocessor(classifier)
    numerics.check_floatx()
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
    _check_input_dtype(classifier)
    probe = probe_images(classifier)
    try:
        logits = classifier(probe, training=False)
    except Exception as error:
        raise ValueError(
            f"The classifier {classifier.name!r} could not be called on 4 "
            f"images of shape {tuple(probe.shape[1:])}. It must take batches "
            f"of any size: leave the batch axis free. Its error: {error}"
        ) from error
    logits_shape = getattr(logits, "shape", None)
    two_class_hint = (
        " For two classes, end it in two logits, `Dense(2)` without a "
        "sigmoid, and keep the labels 0 and 1."
        if tuple(logits_shape or (0, 0))[1:] in ((), (1,))
        else ""
    )
    if logits_shape is None or len(logits_shape) != 2 or logits_shape[1] < 2:
        raise ValueError(
            f"The classifier {classifier.name!r} must return logits of shape "
            "(batch, K) with K ≥ 2 classes. Received: an output of shape "
            f"{tuple(logits_shape or ()) or type(logits).__name__}."
            f"{two_class_hint}"
        )
    values = ops.convert_to_numpy(ops.cast(logits, "float32"))
    if are_probabilities(values) and not allow_probabilities:
        raise ValueError(
            f"The classifier {classifier.name!r} returns probabilities, not "
            "logits: its outputs are not negative and sum to 1. Remove the "
            "softmax (`activation=None` in the last layer); gradients of an "
            "attack vanish behind it."
        )
    closing = _closing_activation(classifier)
    if closing:
        raise ValueError(
            f"The classifier {classifier.name!r} returns the {closing} of its "
            "logits, behind which gradients vanish. Remove it "
            "(`activation=None` in the last layer)."
        )
    return int(logits_shape[1])


def refuse_wake_model(classifier: Any) -> None:
    """Refuses a `WakeModel` where one network is wanted.

    Raises:
        TypeError: If it is one.
    """
    if hasattr(classifier, "robust_classifier"):
        raise TypeError(
            "One network is wanted, and a `WakeModel` holds two. Pass its "
            "`.robust_classifier`, the network that it returns, or "
            f"`.classifier`, the student. Received: {classifier!r}."
        )


def probe_images(
    classifier: keras.Model, bounds: tuple[float, float] = (0.0, 1.0)
) -> Any:
    """Four fixed random images; an unknown height or width is taken as 32."""
    sizes = [size or 32 for size in _input_shape(classifier)[1:]]
    images = np.random.default_rng(0).uniform(*bounds, size=(4, *sizes))
    return ops.convert_to_tensor(images, "float32")


def _check_preprocessor(classifier: keras.Model) -> None:
    """Refuses a KerasHub preprocessor.

    `fit` and `predict` apply it, a call does not.
    """
    preprocessor = getattr(classifier, "preprocessor", None)
    # In a subclassed model `preprocessor` may be a layer, which a call uses.
    within = getattr(
        classifier, "operations", keras_compat.flatten_layers(classifier)
    )
    if preprocessor is None or (
        any(layer is preprocessor for layer in within)
        and not hasattr(classifier, "preprocess_samples")
    ):
        return
    raise ValueError(
        f"The classifier {classifier.name!r} has a preprocessor, which `fit` "
        "and `predict` apply to the images and a call of it does not: an "
        "attack would see another network. Set `.preprocessor = None`, and "
        "put what it does into a model around it: `keras.Sequential(["
        "keras.Input(shape), keras.layers.Rescaling(...), classifier])`. "
        f"Received: preprocessor={preprocessor!r}."
    )


_SATURATING_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "relu", "relu6")
# By the names of their classes in Keras, layers and operations.
_SATURATING_CLASSES = {
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "Relu": "relu",
    "ReLU": "relu",
    "Relu6": "relu6",
}
_CLASSES_PASSED_THROUGH = (
    "Cast",
    "Dropout",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
)


def _closing_activation(model: Any) -> str | None:
    """The name of an activation that closes a model and hides its logits.

    Sought from the output backwards, through nested models, operations and
    layers that leave the values as they are.
    """
    operation, node = model, None
    outer: list[Any] = []  # What nested models were called on.
    while True:
        # The layers of a subclassed model are in no order.
        if isinstance(operation, keras.Model):
            graph = keras_compat.functional_of(operation)
            if not getattr(graph, "outputs", None):
                return None
            if node is not None:
                outer.append(keras_compat.inputs_of(operation, node)[0])
            tensor = graph.outputs[0]
        elif isinstance(operation, keras.layers.InputLayer) and outer:
            tensor = outer.pop()
        elif _passes_values_on(operation):
            tensor = keras_compat.inputs_of(operation, node)[0]
        else:
            break
        operation, node = keras_compat.producer_of(tensor)
    if _of_keras(operation) in _SATURATING_CLASSES:
        return _SATURATING_CLASSES[_of_keras(operation)]
    name = getattr(getattr(operation, "activation", None), "__name__", None)
    return name if name in _SATURATING_ACTIVATIONS else None


def _passes_values_on(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return _of_keras(operation) in _CLASSES_PASSED_THROUGH


def _of_keras(operation: Any) -> str:
    """The name of a class of Keras; an empty one for a class of the user."""
    kind = type(operation)
    return kind.__name__ if kind.__module__.startswith("keras.") else ""


def _check_input_dtype(classifier: keras.Model) -> None:
    """Refuses an input layer of integers, which no gradient passes."""
    for tensor in keras.tree.flatten(getattr(classifier, "inputs", None) or []):
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                f"The classifier {classifier.name!r} must take floating-point "
                f"images: an attack has no gradient for others. Received: an "
                f"input of dtype {dtype}. Make it `keras.Input(shape)` and "
                "scale the images before it."
            )


def are_probabilities(outputs: np.ndarray) -> bool:
    """Whether all rows of outputs (n, K) are at least 0 and sum to 1."""
    return bool(
        np.all(outputs >= 0)
        and np.allclose(outputs.sum(axis=1), 1, rtol=0, atol=1e-3)
    )


def _input_shape(classifier: keras.Model) -> Any:
    """The tuple of one input's sizes; something else for several inputs."""
    try:
        return classifier.input_shape
    except AttributeError:
        shapes = keras_compat.build_shape(classifier)
    if not shapes or len(shapes) > 1:
        return shapes or None
    (shape,) = shapes.values()
    # A loaded model has a list, as JSON has no tuples.
    sizes = isinstance(shape, (tuple, list)) and all(
        size is None or isinstance(size, int) for size in shape
    )
    return tuple(shape) if sizes else shape


def image_shape(classifier: keras.Model) -> ImageShape:
    """The shape of a checked classifier's images.

    A subclassed model was built with some images and may take others: of
    theirs, only the number of axes counts.
    """
    sizes = tuple(_input_shape(classifier)[1:])
    if not hasattr(classifier, "outputs"):
        sizes = (None,) * len(sizes)
    return ImageShape(sizes, classifier.name)


def check_images(x: Any, shape: ImageShape | None = None) -> None:
    """Checks kind, dtype and shape of images.

    Args:
        x: Anything; a tensor, an array, or what is known of a tensor.
        shape: What the classifier takes, where it is known. Defaults to
            `None`: any batch.

    Raises:
        TypeError: If they are not floating-point numbers.
        ValueError: If they are not a batch, or not of this shape.
    """
    array_checks.check_dense("Images", x)
    dtype = array_checks.dtype_of(x)
    if not dtype.startswith(array_checks.FLOATS):
        raise TypeError(
            "Images must be floating-point numbers within the bounds of the "
            f"threat model, [0, 1] by default. Received: dtype {dtype}. "
            'Convert them: `x.astype("float32") / 255` for images in '
            "[0, 255], `tf.cast(x, tf.float32) / 255` in a `tf.data` pipeline."
        )
    if shape is not None:
        shape.check(x)
    elif rank_is_unknown(x) or len(x.shape) < 2:
        received = x.shape if rank_is_unknown(x) else tuple(x.shape)
        raise ValueError(
            "Images must have shape (batch, ...). Received: shape "
            f"{received}. Batch the data set."
        )


def as_float_images(x: Any, shape: ImageShape | None = None) -> Any:
    """`check_images`, and the images as float32."""
    check_images(x, shape)
    # Not a cast, which on PyTorch would leave them on the host.
    return ops.convert_to_tensor(x, "float32")


def check_labels(y: Any, num_classes: int) -> None:
    """Checks the dtype and shape of labels.

    Args:
        y: Anything; accepted are integers (batch,) or (batch, 1), and one-hot
            or soft labels (batch, K).
        num_classes: K.

    Raises:
        TypeError: If they are no numbers, or class numbers that are not
            integers.
        ValueError: If they are missing or their shape fits no form.
    """
    if y is None:
        raise ValueError("Labels are missing: the data must yield (x, y).")
    array_checks.check_dense("Labels", y)
    dtype = number_type(y)
    if rank_is_unknown(y):
        raise ValueError(
            "Labels of unknown rank. Either an earlier call had labels of "
            "another rank (call `compile` again), or the data set has no "
            "static shape (set it with `tf.ensure_shape`)."
        )
    shape = tuple(y.shape)
    if len(shape) == 2 and shape[1] == num_classes:
        return
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            "Labels must be class numbers of shape (batch,) or one-hot or "
            f"soft labels of shape (batch, {num_classes}). Received: shape "
            f"{shape}." + " Batch the data set." * (not shape)
        )
    if not dtype.startswith(array_checks.INTEGERS):
        raise TypeError(
            f"Labels of shape {shape} are class numbers and must be integers. "
            f'Received: dtype {dtype}. Convert them: `y.astype("int32")`, in '
            "a `tf.data` pipeline `tf.cast(y, tf.int32)`."
        )


def one_hot_labels(y: Any, num_classes: int) -> Any:
    """Brings every accepted form of labels to float32 (batch, K).

    Args:
        y: Labels, as `check_labels` accepts them.
        num_classes: K.

    Returns:
        Float32 tensor (batch, K). A label out of range gives a row of zeros,
        which `count_faults` finds.

    Raises:
        TypeError, ValueError: As `check_labels`.
    """
    check_labels(y, num_classes)
    if len(y.shape) == 2 and y.shape[1] == num_classes:
        return ops.convert_to_tensor(y, "float32")
    # A larger number must not come out as a class when it is cut off.
    wide = "int64" if number_type(y) in ("int64", "uint64") else "int32"
    labels = ops.reshape(ops.convert_to_tensor(y, wide), (-1,))
    # Compared by hand: what `ops.one_hot` does with a label that no class has
    # differs from backend to backend.
    classes = ops.arange(num_classes, dtype=wide)
    return ops.cast(labels[:, None] == classes[None, :], "float32")


def number_type(y: Any) -> str:
    """The dtype of labels by its Keras name; a `TypeError` for words."""
    dtype = array_checks.dtype_of(y)
    if dtype.startswith(array_checks.NUMBERS):
        return dtype
    # NumPy's letters for bytes and texts.
    words = dtype == "string" or getattr(y.dtype, "kind", "?") in "SUT"
    raise TypeError(
        "Labels must be class numbers, or one-hot or soft labels. Received: "
        f"{'strings' if words else f'dtype {dtype}'}. Number the classes: "
        "`np.unique(y, return_inverse=True)[1]`."
    )


def check_weights(sample_weight: Any) -> None:
    """Checks that there is one number for each sample."""
    array_checks.check_numbers("`sample_weight`", sample_weight)
    shape = tuple(sample_weight.shape)
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            "`sample_weight` must have one number for each image, shape "
            f"(batch,). Received: shape {shape}."
        )


def as_float_weights(sample_weight: Any) -> Any:
    """`check_weights`, and the weights as float32 (batch,)."""
    check_weights(sample_weight)
    weights = ops.convert_to_tensor(sample_weight, "float32")
    return ops.reshape(weights, (-1,))

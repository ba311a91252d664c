"""The check of a classifier: a built Keras model from images to logits."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.backend import numerics
from keras_wake.data.arrays import ImageShape
from keras_wake.utils.types import Tensor


def check_classifier(classifier: Any, allow_probabilities: bool = False) -> int:
    """Checks that a built model maps images to logits.

    Args:
        classifier: Anything.
        allow_probabilities: Whether its outputs may be probabilities.
            Defaults to `False`.

    Returns:
        K, the number of classes.

    Raises:
        TypeError, ValueError: If it is no such model.
    """
    if not isinstance(classifier, keras.Model):
        raise TypeError(
            "`classifier` must be a `keras.Model` that maps images to logits. "
            f"Received: {classifier!r} (of type {type(classifier).__name__})."
        )
    refuse_wake_model(classifier)
    backend.check_distribution()
    _check_preprocessor(classifier)
    numerics.check_floatx()
    shape = input_shape(classifier)
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
    found = tuple(getattr(logits, "shape", ()))
    if len(found) != 2 or found[1] < 2:
        hint = (
            " For two classes, end it in two logits, `Dense(2)` without a "
            "sigmoid, and keep the labels 0 and 1."
        )
        raise ValueError(
            f"The classifier {classifier.name!r} must return logits of shape "
            "(batch, K) with K ≥ 2 classes. Received: an output of shape "
            f"{found or type(logits).__name__}."
            + (hint if len(found) == 1 or found[1:] == (1,) else "")
        )
    values = ops.convert_to_numpy(ops.cast(logits, "float32"))
    closing = _closing_activation(classifier)
    returned = f"the {closing} of its logits. Remove it" if closing else ""
    if are_probabilities(values) and not allow_probabilities:
        returned = (
            "probabilities, not logits: its outputs are not negative and sum "
            "to 1. Remove the softmax"
        )
    if returned:
        raise ValueError(
            f"The classifier {classifier.name!r} returns {returned} "
            "(`activation=None` in the last layer); gradients of an attack "
            "vanish behind it."
        )
    return int(found[1])


def refuse_wake_model(classifier: Any) -> None:
    """Refuses a `WakeModel` where one network is wanted."""
    # `WakeModel` is built on this module, so it cannot be imported here.
    if hasattr(classifier, "robust_classifier"):
        raise TypeError(
            "One network is wanted, and a `WakeModel` holds two. Pass its "
            "`.robust_classifier`, the network that it returns, or "
            f"`.classifier`, the student. Received: {classifier!r}."
        )


def probe_images(
    classifier: keras.Model, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Four random images, always the same; an open size is taken as 32."""
    sizes = [size or 32 for size in input_shape(classifier)[1:]]
    images = np.random.default_rng(0).uniform(*bounds, size=(4, *sizes))
    return ops.convert_to_tensor(images, "float32")


def _check_preprocessor(classifier: keras.Model) -> None:
    """Refuses a KerasHub preprocessor.

    `fit` and `predict` apply it, and a call of the model does not.
    """
    preprocessor = getattr(classifier, "preprocessor", None)
    # In a subclassed model, `preprocessor` may be a layer that a call uses.
    within = getattr(
        classifier, "operations", keras_compat.flatten_layers(classifier)
    )
    is_used = any(layer is preprocessor for layer in within)
    is_task = hasattr(classifier, "preprocess_samples")
    if preprocessor is None or (is_used and not is_task):
        return
    raise ValueError(
        f"The classifier {classifier.name!r} has a preprocessor, which `fit` "
        "and `predict` apply to the images and a call of it does not: an "
        "attack would see another network. Set `.preprocessor = None`, and "
        "put what it does into a model around it: `keras.Sequential(["
        "keras.Input(shape), keras.layers.Rescaling(...), classifier])`. "
        f"Received: preprocessor={preprocessor!r}."
    )


# In lower case, the names of activations and of classes in Keras.
_SATURATING = ("sigmoid", "hard_sigmoid", "hardsigmoid", "relu", "relu6")
_KEEPING_VALUES = (
    *("cast", "dropout", "flatten", "identity", "linear", "reshape"),
    "squeeze",
)


def _closing_activation(model: keras.Model) -> str | None:
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
        elif _name_of(operation) in _KEEPING_VALUES:
            tensor = keras_compat.inputs_of(operation, node)[0]
        else:
            break
        operation, node = keras_compat.producer_of(tensor)
    names = _name_of(operation), _activation_of(operation)
    return next((name for name in names if name in _SATURATING), None)


def _name_of(operation: keras.Operation) -> str:
    """Its activation or its class, in lower case; empty for a user's class."""
    kind = type(operation)
    if isinstance(operation, keras.layers.Activation):
        return _activation_of(operation)
    of_keras = kind.__module__.startswith("keras.")
    return kind.__name__.lower() if of_keras else ""


def _activation_of(operation: keras.Operation) -> str:
    return getattr(getattr(operation, "activation", None), "__name__", "")


def _check_input_dtype(classifier: keras.Model) -> None:
    """Refuses an input of integers, for which there is no gradient."""
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


def input_shape(classifier: keras.Model) -> Any:
    """The tuple of one input's sizes; something else for several inputs."""
    try:
        return classifier.input_shape
    except AttributeError:
        shapes = keras_compat.build_shape(classifier)
    if not shapes or len(shapes) > 1:
        return shapes or None
    (shape,) = shapes.values()
    # A loaded model has a list, because JSON has no tuples.
    sizes = isinstance(shape, (tuple, list)) and all(
        size is None or isinstance(size, int) for size in shape
    )
    return tuple(shape) if sizes else shape


def image_shape(classifier: keras.Model) -> ImageShape:
    """The shape of a checked classifier's images.

    A subclassed model may take other images than it was built with: only
    their number of axes is fixed.
    """
    sizes = tuple(input_shape(classifier)[1:])
    if not hasattr(classifier, "outputs"):
        sizes = (None,) * len(sizes)
    return ImageShape(sizes, classifier.name)

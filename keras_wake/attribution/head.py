"""The head of a classifier, its weights and its input.

A classifier is f(x) = W g(x) + b. The head is the Dense layer that makes the
logits; the features g(x) are its input.
"""

import operator
import types
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_wake.backend import keras_compat
from keras_wake.data.classifier import refuse_wake_model
from keras_wake.utils.types import Tensor

_HOW = (
    "Name the Dense layer that makes the logits: `head='layer name'`, or "
    "pass the layer itself."
)
# Layers behind the head that leave it the last one with weights.
_SEEN_THROUGH = (
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
)


def find_head(
    classifier: keras.Model,
    head: str | keras.layers.Layer | None = None,
    num_classes: int | None = None,
) -> keras.layers.Dense:
    """Finds the Dense layer that makes the logits.

    In Functional and Sequential models, nested ones included, it is the last
    layer, or the one before a closing activation or dropout layer.

    Args:
        classifier: Built `keras.Model` that returns logits.
        head: The layer or its name, for models in which it cannot be found.
            Defaults to `None`: find it.
        num_classes: K, the units that it must have. Defaults to `None`: any.

    Returns:
        The `keras.layers.Dense` layer.

    Raises:
        TypeError: If `classifier` is not a model.
        ValueError: If there is no such layer, or if it is not a Dense layer
            that makes K logits.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> find_head(model) is model.layers[-1]
    True
    """
    if not isinstance(classifier, keras.Model):
        raise TypeError(
            "`classifier` must be a `keras.Model` that returns logits. "
            f"Received: {classifier!r} (of type {type(classifier).__name__})."
        )
    refuse_wake_model(classifier)
    if head is None:
        found = _last_layer(classifier)
    else:
        layers = _layers_in(classifier)
        fitting = [each for each in layers if head is each or head == each.name]
        if len(fitting) != 1:
            raise ValueError(
                f"`head` must be the name of one layer of {classifier.name!r}, "
                f"or the layer itself. Received: head={head!r}, which fits "
                f"{len(fitting)} of the layers "
                f"{[layer.name for layer in layers[-20:]]}."
            )
        found = fitting[0]
    if not isinstance(found, keras.layers.Dense):
        raise ValueError(
            f"The classifier {classifier.name!r} has no Dense layer at its "
            "end that could be found: it ends in "
            f"{type(found).__name__} {found.name!r}. {_HOW}"
        )
    if num_classes is not None and found.units != num_classes:
        raise ValueError(
            f"The head must make one logit for each of {num_classes} classes. "
            f"Received: the Dense layer {found.name!r} with {found.units} "
            f"units. {_HOW}"
        )
    return found


def counterpart(
    head: keras.layers.Layer, classifier: keras.Model, copy: keras.Model
) -> keras.layers.Layer:
    """The layer of `copy` in the place that `head` has in `classifier`."""
    # Among Dense layers: Keras still tracks a preprocessor that was taken off
    # a classifier, and a copy does not have it.
    own = _layers_in(classifier, keras.layers.Dense)
    place = [layer is head for layer in own].index(True)
    return _layers_in(copy, keras.layers.Dense)[place]


def logits_and_features(
    classifier: keras.Model, head: keras.layers.Dense, x: Tensor
) -> tuple[Tensor, Tensor]:
    """One forward pass in inference mode: logits (batch, K), g(x) (batch, n).

    It works for every kind of model, while a step is compiled, and in several
    threads at once, because no layer of the model is changed: where there is
    no `_feature_extractor`, a copy of the head records its input.
    """
    extractor = _feature_extractor(classifier, head)
    if extractor is not None:
        return extractor(x, training=False)
    recorded: list[Tensor] = []

    def recording(call: Callable) -> Callable:
        def record_and_call(inputs: Tensor, **kwargs: Any) -> Tensor:
            recorded.append(inputs)
            return call(inputs, **kwargs)

        return record_and_call

    copy = _shallow_copy(
        head,
        call=recording(head.call),
        quantized_call=recording(head.quantized_call),
    )
    network = _replace_layers(classifier, {id(head): copy})
    logits = network(x, training=False)
    if len(recorded) != 1 or len(recorded[0].shape) != 2:
        raise ValueError(
            f"The head {head.name!r} must be called once, on features of "
            f"shape (batch, n). Received: {len(recorded)} call(s), on shapes "
            f"{[tuple(features.shape) for features in recorded]}. {_HOW}"
        )
    return logits, recorded[0]


def _feature_extractor(
    classifier: keras.Model, head: keras.layers.Dense
) -> keras.Model | None:
    """A model of logits and features; `None` if Keras cannot make it.

    It can for a Functional or Sequential model that calls the head once, in
    itself and not in a model within it.
    """
    # A class of the user's may have a `call` of its own.
    of_keras = type(classifier).__module__.startswith("keras.")
    inputs = getattr(classifier, "inputs", None) or []
    if not of_keras or len(inputs) != 1:
        return None
    try:
        return keras.Model(inputs[0], [classifier.outputs[0], head.input])
    except (AttributeError, ValueError):
        return None


def head_features(head: keras.layers.Dense) -> int:
    """n, how many features go into a head."""
    # Not the shape of the kernel, which is packed if the head is quantised.
    return int(head.input_spec.axes[-1])


def head_weights(head: keras.layers.Dense) -> Tensor:
    """The weights (n, K) by which a head multiplies its features.

    For a quantised head, they are the numbers that its integers stand for.
    """
    mode = head.quantization_mode
    if mode is None:
        return head.kernel
    # Keras stores quantised kernels in several formats. Calling the layer on
    # an identity matrix gives the weights for all of them.
    product = _shallow_copy(head, activation=None, bias=None)
    # A scale that float8 represents exactly.
    scale = product.inputs_scale if mode == "float8" else 1.0
    scale = ops.cast(ops.convert_to_tensor(scale), "float32")
    found = product(ops.eye(head_features(head), dtype="float32") * scale)
    return ops.cast(found, "float32") / scale


def _replace_layers(value: Any, copies: dict[int, keras.layers.Layer]) -> Any:
    """A copy of a network in which layers are replaced, by their `id`.

    Only what leads to one of these layers is copied: nested models, containers,
    calls of Functional models. All else is shared with the original, variables
    too.
    """
    if isinstance(value, keras.layers.Layer):
        if id(value) in copies:
            return copies[id(value)]
        if not any(id(inner) in copies for inner in _layers_in(value)):
            return value
        layer = copies[id(value)] = _shallow_copy(value)
        for name, attribute in vars(value).items():
            vars(layer)[name] = _replace_layers(attribute, copies)
        return layer
    if isinstance(value, dict):
        items = _replace_layers(list(value.values()), copies)
        same = all(map(operator.is_, items, value.values()))
        return value if same else dict(zip(value, items, strict=True))
    for kind in (list, set, tuple):
        if isinstance(value, kind):
            items = [_replace_layers(item, copies) for item in value]
            same = all(map(operator.is_, items, value))
            # A named tuple has `_make`.
            return value if same else getattr(value, "_make", kind)(items)
    if isinstance(value, types.MethodType):
        # A method that a layer keeps as an attribute.
        owner = _replace_layers(value.__self__, copies)
        if owner is not value.__self__:
            return types.MethodType(value.__func__, owner)
    if hasattr(value, "operation") and hasattr(value, "arguments"):
        # A call in a Functional model.
        operation = _replace_layers(value.operation, copies)
        if operation is not value.operation:
            return _shallow_copy(value, operation=operation)
    return value


def _shallow_copy(value: Any, **attributes: Any) -> Any:
    """Past Keras, which would track the attributes, or save what it copies."""
    copy = object.__new__(type(value))
    vars(copy).update({**vars(value), **attributes})
    return copy


def _layers_in(
    layer: keras.layers.Layer, kind: type = keras.layers.Layer
) -> list[keras.layers.Layer]:
    """All layers of a kind within a model or layer, each once."""
    layers = list(keras_compat.flatten_layers(layer))[1:]
    return [inner for inner in layers if isinstance(inner, kind)]


def _last_layer(model: keras.Model) -> keras.layers.Layer:
    """The last layer that computes logits, before activations and dropout."""
    graph = keras_compat.functional_of(model)
    if not hasattr(graph, "operations"):
        return model
    tensors = [graph.outputs[0]]
    while len(tensors) == 1:
        layer, call = keras_compat.producer_of(tensors[0])
        if not isinstance(layer, _SEEN_THROUGH):
            break
        tensors = keras_compat.inputs_of(layer, call)
    return _last_layer(layer) if isinstance(layer, keras.Model) else layer

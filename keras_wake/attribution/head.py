"""Finding the linear layer at the end of a classifier, and what goes in.

Attribution needs f(x) = W g(x) + b taken apart: the head is the Dense layer
that makes the logits, the features g(x) are its input.
"""

import types
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_wake.backend import keras_compat
from keras_wake.data.classifier import refuse_wake_model

_HOW = (
    "Name the Dense layer that makes the logits: `head='layer name'`, or "
    "pass the layer itself."
)


def find_head(
    classifier: Any, head: Any = None, num_classes: int | None = None
) -> Any:
    """Finds the Dense layer that makes the logits.

    In Functional and Sequential models, nested ones included, it is the last
    layer, or the one before a closing activation or dropout layer.

    Args:
        classifier: Built `keras.Model` that returns logits.
        head: Name of the layer or the layer itself, for models in which it
            cannot be found. Defaults to `None`: find it.
        num_classes: K, where the head is to be checked against it. Defaults
            to `None`: not checked.

    Returns:
        The `keras.layers.Dense` layer.

    Raises:
        TypeError: If `classifier` is no model.
        ValueError: If there is no such layer, or what is found is not Dense
            or does not make K logits.

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
    elif isinstance(head, str):
        found = _layer_of_name(classifier, head)
    else:
        found = head
        if all(layer is not head for layer in _all_layers(classifier)):
            raise ValueError(
                f"`head` must be a layer of {classifier.name!r}. Received: "
                f"head={head!r}. {_HOW}"
            )
    if not isinstance(found, keras.layers.Dense):
        raise ValueError(
            f"The classifier {classifier.name!r} has no Dense layer at its "
            f"end that could be found: it ends in {_describe(found)}. {_HOW}"
        )
    if num_classes is not None and found.units != num_classes:
        raise ValueError(
            f"The head must make one logit for each of {num_classes} classes. "
            f"Received: the Dense layer {found.name!r} with {found.units} "
            f"units. {_HOW}"
        )
    return found


def counterpart(head: Any, classifier: Any, copy: Any) -> Any:
    """The layer of `copy` in the place that `head` has in `classifier`."""
    places = [id(layer) for layer in _all_layers(classifier)]
    return list(_all_layers(copy))[places.index(id(head))]


def logits_and_features(classifier: Any, head: Any, x: Any) -> tuple[Any, Any]:
    """One forward pass in inference mode: logits (batch, K), g(x) (batch, n).

    Works for every kind of model, inside a step that is being compiled, and
    in several threads at once: what goes into the head is recorded by a copy
    of it that belongs to this call alone.

    Raises:
        ValueError: If the head is not called exactly once, on a batch of
            vectors.
    """
    recorded: list[Any] = []

    def recording(call: Callable) -> Callable:
        def record_and_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            recorded.append(inputs)
            return call(inputs, *args, **kwargs)

        return record_and_call

    copy = _shallow_copy(
        head,
        call=recording(head.call),
        quantized_call=recording(head.quantized_call),
    )
    logits = _HeadReplacer(head, copy).copy(classifier)(x, training=False)
    if len(recorded) != 1 or len(recorded[0].shape) != 2:
        raise ValueError(
            f"The head {head.name!r} must be called once, on features of "
            f"shape (batch, n). Received: {len(recorded)} call(s), on shapes "
            f"{[tuple(features.shape) for features in recorded]}. {_HOW}"
        )
    return logits, recorded[0]


def head_features(head: Any) -> int:
    """n, how many features go into a head."""
    if _quantised_to(head) is None:
        return int(head.kernel.shape[0])
    return int(head.input_spec.axes[-1])  # Its kernel may be packed.


def head_weights(head: Any) -> Any:
    """The weights (n, K) by which a head multiplies its features.

    Those of a quantised head are what its numbers stand for.
    """
    mode = _quantised_to(head)
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


def _quantised_to(head: Any) -> str | None:
    return getattr(head, "quantization_mode", None)


class _HeadReplacer:
    """Copies a network, with another layer in place of its head.

    It rebuilds only what leads to the head. All other layers, and all
    variables, are shared with the original.

    Args:
        head: The layer to be replaced.
        other: What takes its place.
    """

    def __init__(self, head: Any, other: Any) -> None:
        self._head = head
        self._copies = {id(head): other}

    def copy(self, value: Any) -> Any:
        """Returns a copy of `value` in which the head is replaced.

        `value` itself if it does not contain the head.
        """
        if isinstance(value, keras.layers.Layer):
            return self._copy_of_layer(value)
        if isinstance(value, dict):
            new = {key: self.copy(item) for key, item in value.items()}
            return new if _differ(new.values(), value.values()) else value
        if isinstance(value, (list, tuple, set)):
            items = [self.copy(item) for item in value]
            if not _differ(items, value):
                return value
            if isinstance(value, tuple):
                # A named tuple has `_make`.
                return getattr(value, "_make", tuple)(items)
            return set(items) if isinstance(value, set) else items
        if isinstance(value, types.MethodType):
            # A method that a layer keeps as an attribute.
            owner = self.copy(value.__self__)
            if owner is not value.__self__:
                return types.MethodType(value.__func__, owner)
        if hasattr(value, "operation") and hasattr(value, "arguments"):
            # A node of a Functional model.
            operation = self.copy(value.operation)
            if operation is not value.operation:
                return _shallow_copy(value, operation=operation)
        return value

    def _copy_of_layer(self, layer: Any) -> Any:
        if id(layer) in self._copies:
            return self._copies[id(layer)]
        if all(inner is not self._head for inner in _all_layers(layer)):
            return layer
        copy = self._copies[id(layer)] = _shallow_copy(layer)
        for name, value in vars(layer).items():
            vars(copy)[name] = self.copy(value)
        return copy


def _shallow_copy(value: Any, **attributes: Any) -> Any:
    """Past Keras, which would track the attributes, or save what it copies."""
    copy = object.__new__(type(value))
    vars(copy).update({**vars(value), **attributes})
    return copy


def _differ(new: Any, old: Any) -> bool:
    return any(a is not b for a, b in zip(new, old, strict=True))


def _all_layers(classifier: Any) -> Iterator[Any]:
    """All layers, depth first; a model's place is before its layers."""
    layers = getattr(classifier, "layers", getattr(classifier, "_layers", []))
    for layer in layers:
        yield layer
        yield from _all_layers(layer)


def _layer_of_name(classifier: Any, name: str) -> Any:
    # By identity: a layer that two models share is one layer.
    layers = {id(layer): layer for layer in _all_layers(classifier)}.values()
    found = [layer for layer in layers if layer.name == name]
    if len(found) != 1:
        names = [layer.name for layer in layers]
        raise ValueError(
            f"`head` must name one layer of {classifier.name!r}; {len(found)} "
            f"have that name. Received: head={name!r}. Layers: {names[-20:]}."
        )
    return found[0]


def _last_layer(model: Any) -> Any:
    """The last layer that computes logits, behind activations and dropout."""
    if isinstance(model, keras.Sequential):
        before = list(model.layers)
        if not before:
            return model
        layer = before.pop()
        while _is_seen_through(layer) and before:
            layer = before.pop()
    elif hasattr(model, "operations") and hasattr(model, "outputs"):
        layer, source = _last_of_functional(model.outputs[0])
        while _is_seen_through(layer) and source is not None:
            layer, source = _last_of_functional(source)
    else:
        return model
    return _last_layer(layer) if isinstance(layer, keras.Model) else layer


def _last_of_functional(tensor: Any) -> tuple[Any, Any]:
    """The layer that made a symbolic tensor, and that layer's own input."""
    layer, call = keras_compat.producer_of(tensor)
    inputs = keras_compat.inputs_of(layer, call)
    return layer, inputs[0] if len(inputs) == 1 else None


def _is_seen_through(layer: Any) -> bool:
    return isinstance(
        layer,
        (
            keras.layers.Activation,
            keras.layers.Dropout,
            keras.layers.Identity,
            keras.layers.LeakyReLU,
            keras.layers.ReLU,
        ),
    )


def _describe(layer: Any) -> str:
    kind = type(layer).__name__
    return f"{kind} {getattr(layer, 'name', '')!r}"

"""Finding the linear layer at the end of a classifier, and what goes in.

Attribution needs f(x) = W g(x) + b taken apart: the head is the Dense layer
that makes the logits, the features g(x) are its input.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

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
        ValueError: If there is no such layer, or what is found is not Dense
            or does not make K logits.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> find_head(model) is model.layers[-1]
    True
    """
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


@contextlib.contextmanager
def record_features(head: Any) -> Iterator[list[Any]]:
    """Records what goes into `head` while a classifier is called.

    Works for every kind of model, and inside a step that is being compiled.

    Args:
        head: The Dense layer.

    Yields:
        A list; each call of the head appends its input.
    """
    recorded: list[Any] = []
    original = head.call

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        recorded.append(inputs)
        return original(inputs, *args, **kwargs)

    # Past Keras's `__setattr__`, which would track the function as state.
    object.__setattr__(head, "call", call)
    try:
        yield recorded
    finally:
        object.__delattr__(head, "call")


def logits_and_features(classifier: Any, head: Any, x: Any) -> tuple[Any, Any]:
    """One forward pass in inference mode: logits (batch, K), g(x) (batch, n).

    Raises:
        ValueError: If the head is not called exactly once, on a batch of
            vectors.
    """
    with record_features(head) as recorded:
        logits = classifier(x, training=False)
    if len(recorded) != 1 or len(recorded[0].shape) != 2:
        raise ValueError(
            f"The head {head.name!r} must be called once, on features of "
            f"shape (batch, n). Received: {len(recorded)} call(s), on shapes "
            f"{[tuple(features.shape) for features in recorded]}. {_HOW}"
        )
    return logits, recorded[0]


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
    layer, node_index, _ = tensor._keras_history
    inputs = layer._inbound_nodes[node_index].input_tensors
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

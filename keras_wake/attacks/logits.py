"""The logits of a classifier as attacks use them, and the classes to aim at."""

from collections.abc import Callable

import keras
from keras import ops

from keras_wake.losses.margin import wrong_logits
from keras_wake.utils.types import Tensor


def stateless_logits(classifier: Callable, training: bool = False) -> Callable:
    """A function from images to logits that changes nothing in the classifier.

    Args:
        classifier: Maps images (batch, ...) to logits (batch, K).
        training: Whether to call it in training mode. Defaults to `False`.

    Returns:
        A function of images. It drops what a call of the classifier would
        update: statistics, in training mode, and the seeds of random layers.
        So every call draws the same random numbers. To draw others, pass an
        int32 scalar tensor `draw`, which counts the calls.
    """
    state = [(v, v.value) for v in getattr(classifier, "variables", ())]

    def logits_of(images: Tensor, draw: Tensor | None = None) -> Tensor:
        now = state if draw is None else [_later(*pair, draw) for pair in state]
        with keras.StatelessScope(state_mapping=now):
            return classifier(images, training=training)

    return logits_of


# More random operations than a network has.
_OPERATIONS = 1024


def _later(
    variable: keras.Variable, value: Tensor, draw: Tensor
) -> tuple[keras.Variable, Tensor]:
    """A variable and its value; a seed is moved on by so many calls."""
    if variable.name != "seed_generator_state":
        return variable, value
    # The seed, and the number of the random operation.
    moved = ops.stack([ops.zeros_like(draw), _OPERATIONS * (draw + 1)])
    return variable, value + ops.cast(moved, value.dtype)


def likely_wrong_class(
    labels: Tensor, logits: Tensor, number: Tensor
) -> Tensor:
    """The wrong class with the largest logit, or one of the next ones.

    Args:
        labels: Float tensor (batch, K), one-hot.
        logits: Float tensor (batch, K), of the clean images.
        number: Int32 scalar tensor, how many of the likeliest to skip.

    Returns:
        Float32 tensor (batch, K), one-hot.
    """
    others = logits.shape[-1] - 1
    _, classes = ops.top_k(wrong_logits(labels, logits), others)
    target = ops.take(classes, number, axis=1)
    return ops.one_hot(target, logits.shape[-1], dtype="float32")

"""A classifier as attacks use it: a function that leaves no trace."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def stateless_logits(classifier: Callable, training: bool = False) -> Callable:
    """The function from images to logits that a classifier is at the moment.

    Args:
        classifier: Maps images (batch, ...) to logits (batch, K).
        training: Whether to call it in training mode. Defaults to `False`.

    Returns:
        A function of images. A call would update statistics, in training
        mode, and the seeds of random layers; here such updates are dropped,
        so that every call draws the same random numbers. To draw others, pass
        an int32 scalar tensor `draw`, which counts the calls.
    """
    state = [(v, v.value) for v in getattr(classifier, "variables", ())]

    def logits_of(images: Any, draw: Any = None) -> Any:
        now = state if draw is None else [_later(*pair, draw) for pair in state]
        with keras.StatelessScope(state_mapping=now):
            return classifier(images, training=training)

    return logits_of


# More random operations than a network has.
_OPERATIONS = 1024


def _later(variable: Any, value: Any, draw: Any) -> tuple[Any, Any]:
    """A variable with its value; that of a seed after so many calls."""
    if variable.name != "seed_generator_state":
        return variable, value
    # The seed, and the number of the random operation.
    moved = ops.stack([ops.zeros_like(draw), _OPERATIONS * (draw + 1)])
    return variable, value + ops.cast(moved, value.dtype)

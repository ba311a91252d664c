"""A classifier as attacks use it: a function that leaves no trace."""

from collections.abc import Callable
from typing import Any

import keras


def stateless_logits(classifier: Callable, training: bool = False) -> Callable:
    """The function from images to logits that a classifier is at the moment.

    Args:
        classifier: Maps images (batch, ...) to logits (batch, K).
        training: Whether to call it in training mode. Defaults to `False`.

    Returns:
        A function of images. In training mode a call would update statistics
        and seeds; here such updates are dropped.
    """
    state = [(v, v.value) for v in getattr(classifier, "variables", ())]

    def logits_of(images: Any) -> Any:
        with keras.StatelessScope(state_mapping=state):
            return classifier(images, training=training)

    return logits_of

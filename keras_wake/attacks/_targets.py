"""Which class a targeted attack aims at."""

from typing import Any

from keras import ops

from keras_wake.losses.margin import wrong_logits


def likely_wrong_class(labels: Any, logits: Any, number: Any) -> Any:
    """The wrong class with the largest logit, or one of the next ones.

    Args:
        labels: Float tensor (batch, K), one-hot.
        logits: Float tensor (batch, K), of the clean images.
        number: Int32 scalar tensor, from 0: how many to leave out.

    Returns:
        Float32 tensor (batch, K), one-hot.
    """
    others = logits.shape[-1] - 1
    _, classes = ops.top_k(wrong_logits(labels, logits), others)
    target = ops.take(classes, number, axis=1)
    return ops.one_hot(target, logits.shape[-1], dtype="float32")

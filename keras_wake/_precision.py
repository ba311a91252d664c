"""What networks that compute in float16 need: gradients that do not underflow.

In float16, numbers below 6e-8 are 0. The gradient of a cross-entropy with
respect to the logits is p − y, which is as small as that for an image that
the network is sure of; an attack would find no direction to go.
"""

from typing import Any

import keras
from keras import ops

# Where the gradient of each image is brought to at the logits. Behind it,
# 4096 times larger numbers fit into float16 and 10^8 times smaller ones.
SIZE = 16.0


def check_floatx() -> None:
    """Refuses half precision for all that Keras makes by default.

    A number such as ε or 1e-12 passes through it in every operation of Keras,
    and a mean cannot count beyond 2048 in it.
    """
    floatx = keras.config.floatx()
    if floatx not in ("float32", "float64"):
        raise ValueError(
            "Attacks and metrics need `keras.config.floatx()` to be float32 "
            f"or float64. Received: {floatx!r}. Leave it at float32, and have "
            "the layers of the network compute in half precision: "
            f'`keras.config.set_dtype_policy("mixed_{floatx}")`.'
        )


def computes_in_float16(classifier: Any) -> bool:
    """Whether any layer of a model computes in float16."""
    layers: Any = getattr(classifier, "_flatten_layers", tuple)()
    return any(
        getattr(layer, "compute_dtype", None) == "float16" for layer in layers
    )


def scaled_losses(losses: Any, labels: Any, logits: Any) -> Any:
    """Losses of an attack, each times a constant of its own.

    The constants bring the largest entry of p − y to the same size for every
    image. Directions of steepest ascent do not depend on them.

    Args:
        losses: Float32 tensor (batch,), cross-entropies.
        labels: Float32 tensor (batch, K), one-hot or soft.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,).
    """
    probabilities = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    size = ops.max(ops.abs(probabilities - labels), axis=-1)
    return scaled_by(losses, size)


def scaled_by(losses: Any, size: Any) -> Any:
    """Losses whose gradients at the logits all get the same size.

    Args:
        losses: Float32 tensor (batch,).
        size: Float32 tensor (batch,), of the gradients of `losses` with
            respect to the logits.

    Returns:
        Float32 tensor (batch,).
    """
    # Where p and y agree in float32 there is no gradient to scale.
    scale = SIZE / ops.maximum(size, 1e-30)
    return losses * ops.stop_gradient(scale)


def finite(gradient: Any) -> Any:
    """A gradient with 0 where float16 has overflowed."""
    return ops.where(ops.isfinite(gradient), gradient, ops.zeros_like(gradient))

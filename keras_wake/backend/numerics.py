"""Gradients that are NaN, infinite, tiny or huge.

A gradient holds NaN or infinity behind a square root at 0, for example. Its
square may be too small or too large for float32.

In float16, numbers below 6e-8 are 0. The gradient of a cross-entropy with
respect to the logits is p − y. Where the network is sure of an image, that is
smaller, and an attack would find no direction.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.utils.types import Tensor

# The size to which the gradient of each image is scaled at the logits. Float16
# then still holds gradients that are 4096 times larger or 10^8 times smaller.
GRADIENT_SIZE = 16.0


def check_floatx() -> None:
    """Refuses float16 and bfloat16 as `floatx`.

    Keras casts numbers such as ε to it in every operation, and a mean cannot
    count beyond 2048 in it.
    """
    floatx = keras.config.floatx()
    if floatx not in ("float32", "float64"):
        raise ValueError(
            "Attacks and metrics need `keras.config.floatx()` to be float32 "
            f"or float64. Received: {floatx!r}. Leave it at float32, and have "
            "the layers of the network compute in half precision: "
            f'`keras.config.set_dtype_policy("mixed_{floatx}")`.'
        )


def computes_in_float16(classifier: Callable) -> bool:
    """Whether any layer of a model computes in float16."""
    if not hasattr(classifier, "layers"):
        return False
    layers = keras_compat.flatten_layers(classifier)
    return any(layer.compute_dtype == "float16" for layer in layers)


def scaled_losses(losses: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """Losses of an attack, each times a constant of its own.

    The constants bring the largest entry of p − y to the same size for every
    image. Directions of steepest ascent do not depend on them.

    Args:
        losses: Float32 tensor (batch,), cross-entropies.
        labels: Float32 tensor (batch, K), one-hot or soft.
        logits: Float tensor (batch, K).
    """
    probabilities = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    size = ops.max(ops.abs(probabilities - labels), axis=-1)
    return scaled_by(losses, size)


def scaled_by(losses: Tensor, size: Tensor) -> Tensor:
    """Losses whose gradients at the logits all get the same size.

    Args:
        losses: Float32 tensor (batch,).
        size: Float32 tensor (batch,), of the gradients of `losses` with
            respect to the logits.
    """
    # Where p and y agree in float32 there is no gradient to scale.
    scale = GRADIENT_SIZE / ops.maximum(size, 1e-30)
    return losses * ops.stop_gradient(scale)


def finite(values: Tensor) -> Tensor:
    """`values`, with 0 in place of what is NaN or infinite."""
    return fast_path_if(
        # A sum with a NaN or infinite term is not finite.
        lambda: ops.isfinite(ops.sum(values)),
        lambda: values,
        lambda: ops.where(ops.isfinite(values), values, 0.0),
    )


def unit_l2(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`values` divided by their ℓ2 norm over the axes; zeros stay zeros."""
    squares = squared_l2(values, axes)
    usual = are_usual(squares)

    def any_size() -> Tensor:
        # By the largest element first: the squares of 1e-20 and of 1e20 do
        # not fit into float32.
        largest = ops.max(ops.abs(values), axis=axes, keepdims=True)
        ones = ops.ones_like(largest)
        inside = values / ops.where(largest > 0, largest, ones)
        # Zeros are divided by 1e-10; all others have a norm of at least 1.
        inside = inside / (ops.sqrt(squared_l2(inside, axes)) + 1e-10)
        # Samples of usual size come out the same whatever batch they are in.
        norms = ops.sqrt(ops.where(usual, squares, ones))
        return ops.where(usual, values / norms, inside)

    return fast_path_if(
        lambda: ops.all(usual),
        lambda: values / ops.sqrt(squares),
        any_size,
    )


def squared_l2(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Squared ℓ2 norms over the axes, which are kept with size 1."""
    return ops.sum(ops.square(values), axis=axes, keepdims=True)


def are_usual(squares: Tensor) -> Tensor:
    """Whether squared norms are neither tiny, huge nor NaN."""
    return ops.logical_and(squares > 1e-30, squares < 1e30)


def fast_path_if(
    condition: Callable, short: Callable, full: Callable
) -> Tensor:
    """`full()`, by way of `short()` where `condition()` says they are equal.

    XLA fuses the operations of `full` into one pass over the tensor. Elsewhere
    each operation is a pass of its own, which slows down small networks.
    """
    if backend.jit_by_default():
        return full()
    return ops.cond(condition(), short, full)


def hits(labels: Tensor, logits: Tensor) -> Tensor:
    """1.0 where the largest logit is at the largest label, else 0.0.

    Logits with NaN count as wrong, although `argmax` returns a class.
    """
    equal = ops.argmax(labels, axis=-1) == ops.argmax(logits, axis=-1)
    answered = ops.logical_not(ops.any(ops.isnan(logits), axis=-1))
    return ops.cast(ops.logical_and(equal, answered), "float32")

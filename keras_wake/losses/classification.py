"""Cross-entropy and Kullback-Leibler divergence of logits, per sample."""

from keras import ops

from keras_wake.losses import _arguments
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy −Σ_k y_k log softmax(logits)_k.

    Args:
        labels: Float tensor (batch, K), one-hot or soft, or integer tensor
            (batch,) of class numbers.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,). NaN where a class number is out of range.

    Raises:
        ValueError: If the shapes do not fit each other.
        TypeError: If class numbers are not integers.

    Example:

    >>> cross_entropy([[1.0, 0.0]], [[0.0, 0.0]]).numpy().round(4)
    array([0.6931], dtype=float32)
    """
    labels, logits = _arguments.labels_and_logits(logits, labels=labels)
    log_p = ops.log_softmax(logits, axis=-1)
    # A class with a logit of −∞ and label 0 must add 0 to the sum, not NaN.
    masked = ops.logical_and(labels == 0, is_zero(log_p))
    return -ops.sum(labels * ops.where(masked, 0.0, log_p), axis=-1)


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p ‖ q) = Σ_k p_k (log p_k − log q_k).

    Args:
        p_logits: Float tensor (batch, K), logits of p, the reference.
        q_logits: Float tensor (batch, K), logits of q.

    Returns:
        Float32 tensor (batch,), at least 0 up to rounding.

    Raises:
        ValueError: If the two are not of one shape (batch, K).

    Example:

    >>> kl_divergence([[1.0, 2.0]], [[1.0, 2.0]]).numpy()
    array([0.], dtype=float32)
    """
    p_logits = _arguments.logits_of(p_logits=p_logits)
    q_logits = _arguments.logits_of(q_logits=q_logits)
    _arguments.check_same_shape(p_logits=p_logits, q_logits=q_logits)
    log_p = ops.log_softmax(p_logits, axis=-1)
    log_q = ops.log_softmax(q_logits, axis=-1)
    # A class of p = 0 adds 0, also if q is 0.
    ratio = ops.where(is_zero(log_p), 0.0, log_p - log_q)
    return ops.sum(ops.exp(log_p) * ratio, axis=-1)


def is_zero(log_p: Tensor) -> Tensor:
    """Where a logarithm is −∞, as for a class whose logit is −∞."""
    # Not `== -inf`, at which `tf.debugging.enable_check_numerics` stops.
    return log_p < -3e38


def smoothed(labels: Tensor, amount: float) -> Tensor:
    """Label smoothing (Szegedy et al. 2016): (1 − s) · y + s / K.

    Args:
        labels: Float tensor (batch, K), one-hot or soft.
        amount: s in [0, 1].

    Returns:
        Float tensor (batch, K).

    Raises:
        ValueError: If `amount` is out of range, or `labels` are not of shape
            (batch, K).

    Example:

    >>> smoothed(np.array([[1.0, 0.0]]), 0.1)
    array([[0.95, 0.05]])
    """
    amount = validate.in_range(0, 1, amount=amount)
    labels = _arguments.soft_labels(labels)
    if not amount:
        return labels
    return (1 - amount) * labels + amount / labels.shape[-1]

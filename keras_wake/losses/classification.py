"""Cross-entropy and Kullback-Leibler divergence of logits, per sample."""

from typing import Any

from keras import ops


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Cross-entropy −Σ_k y_k log softmax(logits)_k.

    Args:
        labels: Float tensor (batch, K), one-hot or soft.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,).

    Example:

    >>> cross_entropy([[1.0, 0.0]], [[0.0, 0.0]]).numpy().round(4)
    array([0.6931], dtype=float32)
    """
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.sum(ops.cast(labels, "float32") * log_probabilities, axis=-1)


def kl_divergence(p_logits: Any, q_logits: Any) -> Any:
    """Kullback-Leibler divergence KL(p ‖ q) = Σ_k p_k (log p_k − log q_k).

    Args:
        p_logits: Float tensor (batch, K), logits of p, the reference.
        q_logits: Float tensor (batch, K), logits of q.

    Returns:
        Float32 tensor (batch,), at least 0 up to rounding.

    Example:

    >>> kl_divergence([[1.0, 2.0]], [[1.0, 2.0]]).numpy()
    array([0.], dtype=float32)
    """
    log_p = ops.log_softmax(ops.cast(p_logits, "float32"), axis=-1)
    log_q = ops.log_softmax(ops.cast(q_logits, "float32"), axis=-1)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def smoothed(labels: Any, amount: float) -> Any:
    """Label smoothing (Szegedy et al. 2016): (1 − s) · y + s / K.

    Args:
        labels: Float tensor (batch, K), one-hot or soft.
        amount: s in [0, 1).

    Returns:
        Float tensor (batch, K).

    Example:

    >>> smoothed(np.array([[1.0, 0.0]]), 0.1)
    array([[0.95, 0.05]])
    """
    if not amount:
        return labels
    return (1 - amount) * labels + amount / labels.shape[-1]

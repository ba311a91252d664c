"""The distillation term of WAKE: a softened divergence from the teacher."""

from typing import Any

from keras import ops

from keras_wake import _validate
from keras_wake.losses.classification import kl_divergence


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    temperature: float = 2.0,
    scale: bool = True,
) -> Any:
    """Knowledge distillation, equation 42 of the paper.

    KD = T² · Σ_k p_k (log p_k − log q_k) with p = softmax(teacher / T) and
    q = softmax(student / T). The factor T² keeps the size of the gradient
    independent of the temperature.

    Args:
        student_logits: Float tensor (batch, K).
        teacher_logits: Float tensor (batch, K). Stop its gradient where the
            teacher must not learn.
        temperature: T > 0. Defaults to `2.0`.
        scale: Whether to multiply by T². Defaults to `True`.

    Returns:
        Float32 tensor (batch,), at least 0 up to rounding, and 0 where both
        logits agree.

    Raises:
        ValueError: If `temperature` is not positive.

    Example:

    >>> distillation_loss([[0.0, 0.0]], [[0.0, 0.0]]).numpy()
    array([0.], dtype=float32)
    """
    temperature = _validate.positive(temperature=temperature)
    loss = kl_divergence(
        ops.cast(teacher_logits, "float32") / temperature,
        ops.cast(student_logits, "float32") / temperature,
    )
    return loss * temperature**2 if scale else loss

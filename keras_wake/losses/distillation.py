"""The distillation term of WAKE: a softened divergence from the teacher."""

from keras import ops

from keras_wake.losses import _arguments
from keras_wake.losses.classification import is_zero
from keras_wake.losses.classification import kl_divergence
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor

TEMPERATURE_RANGE = 1e-6, 1e6
# From this T on, T² times the rounding errors of the plain formula is too much.
HIGH_TEMPERATURE = 8.0
# The exponential of a smaller number does not overflow.
MAX_EXPONENT = 10.0
# Of a smaller number, the series in `_excess` is exact in float32.
SERIES_BELOW = 0.1


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 2.0,
    scale: bool = True,
) -> Tensor:
    """Knowledge distillation, equation 42 of the paper.

    KD = T² · Σ_k p_k (log p_k − log q_k) with p = softmax(teacher / T) and
    q = softmax(student / T). The factor T² keeps the size of the gradient
    independent of the temperature.

    Args:
        student_logits: Float tensor (batch, K).
        teacher_logits: Float tensor (batch, K). Stop its gradient where the
            teacher must not learn.
        temperature: T between 1e-6 and 1e6. Defaults to `2.0`.
        scale: Whether to multiply by T². Defaults to `True`.

    Returns:
        Float32 tensor (batch,), at least 0 up to rounding, and 0 where both
        logits agree.

    Raises:
        ValueError: If `temperature` is out of range, or the logits are not
            of one shape (batch, K).

    Example:

    >>> distillation_loss([[0.0, 0.0]], [[0.0, 0.0]]).numpy()
    array([0.], dtype=float32)
    """
    temperature = check_temperature(temperature)
    scale = validate.boolean(scale=scale)
    student = _arguments.logits_of(student_logits=student_logits)
    teacher = _arguments.logits_of(teacher_logits=teacher_logits)
    _arguments.check_same_shape(student_logits=student, teacher_logits=teacher)
    if temperature < HIGH_TEMPERATURE:
        loss = kl_divergence(teacher / temperature, student / temperature)
    else:
        loss = _at_high_temperature(teacher, student, temperature)
    return loss * temperature**2 if scale else loss


def check_temperature(temperature: float) -> float:
    """Checks that float32 can compute the loss at this T."""
    temperature = validate.positive(temperature=temperature)
    return validate.in_range(*TEMPERATURE_RANGE, temperature=temperature)


def _at_high_temperature(
    teacher: Tensor, student: Tensor, temperature: float
) -> Tensor:
    """KL(softmax(teacher / T) ‖ softmax(student / T)), precise at a high T.

    There p and q hardly differ. In Σ_k p_k d_k with d = log p − log q, terms
    of both signs cancel, and mostly rounding errors are left. This computes
    Σ_k p_k (d_k + e^(−d_k) − 1) instead, whose terms are at least 0. It is
    the same sum, because Σ_k p_k e^(−d_k) = Σ_k q_k = 1.

    d is computed from the difference of the logits: with
    u = (teacher − student) / T minus its mean under q,
    d = u − log Σ_k q_k e^(u_k).
    """
    log_p = ops.log_softmax(teacher / temperature, axis=-1)
    log_q = ops.log_softmax(student / temperature, axis=-1)
    p, q = ops.exp(log_p), ops.exp(log_q)

    # A class with a logit of −∞ is masked.
    no_p, no_q = is_zero(log_p), is_zero(log_q)
    u = (teacher - student) / temperature
    u = ops.where(ops.logical_or(no_p, no_q), 0.0, u)
    u = u - ops.sum(q * u, axis=-1, keepdims=True)
    near = ops.max(ops.abs(u), axis=-1, keepdims=True) < MAX_EXPONENT
    one_alone = ops.any(ops.not_equal(no_p, no_q), axis=-1, keepdims=True)
    near = ops.logical_and(near, ops.logical_not(one_alone))
    # An overflow here would make the gradient NaN, although the `where` below
    # does not choose its result.
    u = ops.where(near, u, 0.0)
    d = u - ops.log1p(ops.sum(q * ops.expm1(u), axis=-1, keepdims=True))
    ratio = ops.where(no_p, 0.0, log_p - log_q)
    far = ops.maximum(p * ratio + q - p, 0.0)
    terms = ops.where(near, p * _excess(d), far)
    return ops.sum(terms, axis=-1)


def _excess(d: Tensor) -> Tensor:
    """d + e^(−d) − 1, which is at least 0, without cancellation at 0."""
    small = ops.abs(d) < SERIES_BELOW
    tiny = ops.where(small, d, 0.0)
    # The next term is below 1e-9 of the sum.
    series = tiny**2 * (
        1 / 2 - tiny / 6 + tiny**2 / 24 - tiny**3 / 120 + tiny**4 / 720
    )
    return ops.where(small, series, ops.expm1(-d) + d)

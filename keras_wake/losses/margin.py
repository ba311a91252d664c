"""Losses that do not saturate: margins of logits, per sample.

The gradient of the cross-entropy vanishes where the network is confident, and
depends on the scale of the logits. That of a margin does neither.
"""

from keras import ops

from keras_wake.losses import _arguments
from keras_wake.utils.types import Tensor

# Below every logit. Not −∞: `tf.debugging.enable_check_numerics` stops at it.
_LOWEST_LOGIT = -3e38


def margin_loss(labels: Tensor, logits: Tensor) -> Tensor:
    """Margin of the best wrong class, max_{k≠y} z_k − z_y.

    It is positive where the image is misclassified, and 0 where z_y and
    another logit are both the largest.

    Args:
        labels: As for `cross_entropy`. With soft labels, y is the class of the
            largest.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,). NaN where a class number is out of range.

    Raises:
        TypeError, ValueError: As `cross_entropy`.

    Example:

    >>> margin_loss([[1.0, 0.0, 0.0]], [[3.0, 1.0, 2.0]]).numpy()
    array([-1.], dtype=float32)
    """
    labels, logits = _arguments.labels_and_logits(logits, labels=labels)
    best_wrong = ops.max(wrong_logits(labels, logits), axis=-1)
    return best_wrong - logit_of(labels, logits)


def margin_for_search(labels: Tensor, logits: Tensor) -> Tensor:
    """`margin_loss` for a search: the largest number where a logit is NaN.

    An evaluation counts an image with such logits as misclassified. With a
    margin of NaN, a search would never choose it.
    """
    margin = margin_loss(labels, logits)
    unknown = ops.any(ops.isnan(logits), axis=-1)
    unknown = ops.logical_or(unknown, ops.isnan(margin))
    return ops.where(unknown, -_LOWEST_LOGIT, margin)


def dlr_loss(labels: Tensor, logits: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020), untargeted.

    DLR = −(z_y − max_{k≠y} z_k) / (z_π1 − z_π3), where z_π1 ≥ z_π2 ≥ … are
    the sorted logits. Shifting or scaling the logits does not change it.
    With two classes there is no z_π3, and the margin is returned as it is.

    Args:
        labels: As for `margin_loss`.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,), positive where the margin is. With three
        classes or more it lies in [−1, 1] if at most one wrong class has a
        larger logit than y; else it is at least 1 (exactly 1 for three
        classes). NaN where a class number is out of range.

    Raises:
        TypeError, ValueError: As `cross_entropy`.

    Example:

    >>> dlr_loss([[1.0, 0.0, 0.0]], [[3.0, 1.0, 2.0]]).numpy()
    array([-0.5], dtype=float32)
    """
    logits = _arguments.logits_of(logits=logits)
    margin = margin_loss(labels, logits)
    scale = dlr_scale(logits)
    return margin if scale is None else margin / scale


def targeted_dlr_loss(
    labels: Tensor, targets: Tensor, logits: Tensor
) -> Tensor:
    """Difference of logits ratio towards a class t (Croce & Hein 2020).

    DLR-T = −(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2), where z_π1 ≥ z_π2 ≥ …
    are the sorted logits. With fewer than four classes there is no z_π4, and
    z_t − z_y is returned as it is.

    Args:
        labels: As for `margin_loss`: the class y.
        targets: The class t, in either form.
        logits: Float tensor (batch, K).

    Returns:
        Float32 tensor (batch,). NaN where a class number is out of range.

    Raises:
        TypeError, ValueError: As `cross_entropy`.

    Example:

    >>> labels, targets = np.eye(4)[[0]], np.eye(4)[[2]]
    >>> targeted_dlr_loss(labels, targets, [[5.0, 1.0, 2.0, 1.0]]).numpy()
    array([-0.75], dtype=float32)
    """
    labels, logits = _arguments.labels_and_logits(logits, labels=labels)
    targets, logits = _arguments.labels_and_logits(logits, targets=targets)
    margin = logit_of(targets, logits) - logit_of(labels, logits)
    scale = dlr_scale(logits, targeted=True)
    return margin if scale is None else margin / scale


def wrong_logits(labels: Tensor, logits: Tensor) -> Tensor:
    """The logits, with −3e38 for the class y, float32 (batch, K)."""
    logits = ops.cast(logits, "float32")
    # A wrong class with a logit of −∞ must stay above y.
    logits = ops.where(logits < _LOWEST_LOGIT / 2, _LOWEST_LOGIT / 2, logits)
    return ops.where(ops.cast(_one_hot(labels), "bool"), _LOWEST_LOGIT, logits)


def dlr_scale(logits: Tensor, targeted: bool = False) -> Tensor:
    """What DLR divides by, float32 (batch,), or `None` for too few classes."""
    needed = 4 if targeted else 3
    logits = ops.convert_to_tensor(logits)
    if logits.shape[-1] < needed:
        return None
    largest, _ = ops.top_k(ops.cast(logits, "float32"), needed)
    last = ops.mean(largest[:, 2:], axis=-1)
    # The addend avoids a division by 0 where all logits are equal.
    return largest[:, 0] - last + 1e-12


def _one_hot(labels: Tensor) -> Tensor:
    """The class of the largest label as one-hot float32 (batch, K)."""
    labels = ops.convert_to_tensor(labels)
    classes = ops.argmax(labels, axis=-1)
    return ops.one_hot(classes, labels.shape[-1], dtype="float32")


def logit_of(labels: Tensor, logits: Tensor) -> Tensor:
    """z_y, float32 (batch,)."""
    logits = ops.cast(logits, "float32")
    # A product with 0 would be NaN where another class has a logit of −∞.
    chosen = ops.cast(_one_hot(labels), "bool")
    return ops.sum(ops.where(chosen, logits, 0.0), axis=-1)

"""Objectives that hold clean and adversarial predictions together."""

import keras
from keras import ops

from keras_wake.losses import _arguments
from keras_wake.losses import cross_entropy
from keras_wake.losses import kl_divergence
from keras_wake.losses import smoothed
from keras_wake.objectives.objective import Objective
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class TRADES(Objective):
    """TRADES (Zhang et al. 2019): CE(f(x), y) + β · KL(f(x) ‖ f(x')).

    The divergence is between the softmax of both, and its gradient goes
    through both. x' comes from an attack that ascends the same divergence:
    `attacks.PGD` does so in a `WakeModel` with this objective, unless its own
    `loss` says otherwise.

    Args:
        beta: β ≥ 0, the weight of the divergence. Defaults to `6.0`.
        label_smoothing: s in [0, 1): labels become (1 − s) · y + s / K in
            the cross-entropy. Defaults to `0.0`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> TRADES(beta=6.0).inputs
    ('clean', 'adversarial')
    """

    name = "trades"
    inputs = ("clean", "adversarial")
    attack_loss = "kl"
    _arguments = ("beta", "label_smoothing")

    def __init__(self, beta: float = 6.0, label_smoothing: float = 0.0) -> None:
        self.beta = validate.not_negative(beta=beta)
        self.label_smoothing = validate.fraction(
            label_smoothing=label_smoothing
        )

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
        """The objective for each sample, float32 (batch,)."""
        clean, adversarial = logits["clean"], logits["adversarial"]
        natural = cross_entropy(smoothed(labels, self.label_smoothing), clean)
        return natural + self.beta * kl_divergence(clean, adversarial)


@keras.saving.register_keras_serializable(package="keras_wake")
class MART(Objective):
    """MART (Wang et al. 2020): misclassified images count more.

        BCE(f(x'), y) + β · KL(f(x) ‖ f(x')) · (1 − p_y(x))

    with the boosted cross-entropy

        BCE(f(x'), y) = −log p_y(x') − log(1 − max_{k ≠ y} p_k(x'))

    and p the softmax of the logits. Adversarial images x' come from an attack
    on the cross-entropy.

    Args:
        beta: β ≥ 0, the weight of the divergence. Defaults to `5.0`, as in
            the published code.

    Raises:
        ValueError: If `beta` is negative.

    Example:

    >>> MART(beta=5.0).inputs
    ('clean', 'adversarial')
    """

    name = "mart"
    inputs = ("clean", "adversarial")
    _arguments = ("beta",)

    def __init__(self, beta: float = 5.0) -> None:
        self.beta = validate.not_negative(beta=beta)

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
        """The objective for each sample, float32 (batch,).

        y is the class with the largest label.
        """
        clean, adversarial = logits["clean"], logits["adversarial"]
        labels = _arguments.soft_labels(labels)
        y = ops.argmax(labels, axis=-1)
        true = ops.one_hot(y, labels.shape[-1], dtype="float32")
        p_adversarial = ops.softmax(ops.cast(adversarial, "float32"), axis=-1)
        p_clean = ops.softmax(ops.cast(clean, "float32"), axis=-1)
        rival = ops.max(p_adversarial - 2.0 * true, axis=-1)
        # The published constant, which keeps the logarithm finite.
        boost = -ops.log(1.0001 - rival)
        missed = 1.0 - ops.sum(true * p_clean, axis=-1)
        divergence = kl_divergence(clean, adversarial)
        boosted = cross_entropy(true, adversarial) + boost
        return boosted + self.beta * divergence * missed

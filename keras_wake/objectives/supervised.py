"""Cross-entropy objectives: adversarial training and regular training."""

import keras

from keras_wake.losses import cross_entropy
from keras_wake.losses import smoothed
from keras_wake.objectives.objective import Objective
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor


class _CrossEntropy(Objective):
    """Cross-entropy on one kind of images."""

    _arguments = ("label_smoothing",)

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = validate.fraction(
            label_smoothing=label_smoothing
        )

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
        """Cross-entropy on the images of `inputs`, float32 (batch,)."""
        (name,) = self.inputs
        labels = smoothed(labels, self.label_smoothing)
        return cross_entropy(labels, logits[name])


@keras.saving.register_keras_serializable(package="keras_wake")
class AdversarialTraining(_CrossEntropy):
    """Adversarial training (Madry et al. 2018): CE(f(x + δ), y).

    Args:
        label_smoothing: s in [0, 1): labels become (1 − s) · y + s / K in
            the loss; the attack sees them as they are. Defaults to `0.0`.

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Example:

    >>> AdversarialTraining().inputs
    ('adversarial',)
    """

    name = "at"
    inputs = ("adversarial",)


@keras.saving.register_keras_serializable(package="keras_wake")
class Standard(_CrossEntropy):
    """Regular training: CE(f(x), y) on clean images.

    Args:
        label_smoothing: s in [0, 1): labels become (1 − s) · y + s / K in
            the loss. Defaults to `0.0`.

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Example:

    >>> Standard().inputs
    ('clean',)
    """

    name = "standard"
    inputs = ("clean",)

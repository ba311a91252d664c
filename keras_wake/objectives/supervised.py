"""Cross-entropy objectives: adversarial training and regular training."""

from typing import Any

import keras

from keras_wake.losses import cross_entropy
from keras_wake.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_wake")
class AdversarialTraining(Objective):
    """Adversarial training (Madry et al. 2018): CE(f(x + δ), y).

    Example:

    >>> AdversarialTraining().inputs
    ('adversarial',)
    """

    name = "at"
    inputs = ("adversarial",)

    def loss(self, labels: Any, logits: dict[str, Any]) -> Any:
        """Cross-entropy on the adversarial images, float32 (batch,)."""
        return cross_entropy(labels, logits["adversarial"])


@keras.saving.register_keras_serializable(package="keras_wake")
class Standard(Objective):
    """Regular training: CE(f(x), y) on clean images.

    Example:

    >>> Standard().inputs
    ('clean',)
    """

    name = "standard"
    inputs = ("clean",)

    def loss(self, labels: Any, logits: dict[str, Any]) -> Any:
        """Cross-entropy on the clean images, float32 (batch,)."""
        return cross_entropy(labels, logits["clean"])

"""What is measured of one network: accuracy, robust accuracy, attribution."""

from typing import Any

import keras

from keras_wake.attacks import Attack
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import find_head
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features
from keras_wake.attribution.metric import ClassAttributionSimilarity
from keras_wake.backend.numerics import hits
from keras_wake.utils.types import Tensor


def mean(name: str) -> keras.metrics.Mean:
    """A mean in float32, whatever `floatx` is: half cannot count past 2048."""
    return keras.metrics.Mean(name=name, dtype="float32")


def find_heads(
    student: keras.Model, teacher: keras.Model, head: Any, num_classes: int
) -> tuple[Any, Any, str]:
    """The Dense layers that make the logits, for attribution.

    Args:
        student: The classifier.
        teacher: A copy of it.
        head: Name of the layer in the student, or `None` to look for it.
        num_classes: K.

    Returns:
        The layers of student and teacher, and `""`; or `None` twice, and why
        there is none.

    Raises:
        ValueError: If a head is named and cannot be used.
    """
    try:
        found = find_head(student, head, num_classes)
        return found, counterpart(found, student, teacher), ""
    except ValueError as error:
        if head is not None:
            raise
        return None, None, str(error)


class NetworkMetrics:
    """The metrics of the student, or of the teacher.

    Args:
        network: Maps images to logits (batch, K).
        head: Its last Dense layer, or `None` where there is no attribution.
        num_classes: K.
        prefix: What the names of the metrics begin with. Defaults to `""`.

    Attributes:
        accuracy: On clean images.
        robust_accuracy: On adversarial images.
        attribution: CAS, or `None` without a head.
    """

    def __init__(
        self,
        network: keras.Model,
        head: Any,
        num_classes: int,
        prefix: str = "",
    ) -> None:
        self.network = network
        self.head = head
        self.accuracy = mean(f"{prefix}accuracy")
        self.robust_accuracy = mean(f"{prefix}robust_accuracy")
        self.attribution: Any = None
        if head is not None:
            self.attribution = ClassAttributionSimilarity(
                num_classes, head_features(head), name=f"{prefix}cas"
            )

    def evaluate(
        self,
        attack: Attack,
        x: Tensor,
        labels: Tensor,
        seed: keras.random.SeedGenerator,
        present: Tensor | None,
        with_attribution: bool,
    ) -> dict[str, Tensor]:
        """Updates the metrics with a batch.

        Args:
            attack: What makes the adversarial images, on this network.
            x: Float32 tensor (batch, ...), images.
            labels: Float32 tensor (batch, K).
            seed: Random numbers of the attack.
            present: Boolean tensor (batch,), false for images that take no
                part; `None` if all do.
            with_attribution: Whether to measure attribution.

        Returns:
            The logits (batch, K) of `"clean"` and `"adversarial"` images.
        """
        clean = self.network(x, training=False)
        adversarial = attack.perturb(self.network, x, labels, seed)
        if with_attribution:
            robust, features = logits_and_features(
                self.network, self.head, adversarial
            )
            self.attribution.update_state(
                labels, features, head_weights(self.head), present
            )
        else:
            robust = self.network(adversarial, training=False)
        self.accuracy.update_state(hits(labels, clean), present)
        self.robust_accuracy.update_state(hits(labels, robust), present)
        return {"clean": clean, "adversarial": robust}

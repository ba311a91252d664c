"""What APGD can maximise, by name."""

from collections.abc import Callable

from keras import ops

from keras_wake.backend import numerics
from keras_wake.losses import cross_entropy
from keras_wake.losses import dlr_loss
from keras_wake.losses import targeted_dlr_loss
from keras_wake.losses.margin import dlr_scale
from keras_wake.utils.types import Tensor


class CrossEntropy:
    """The cross-entropy of the label.

    Args:
        classifier: Maps images to logits. In float16, losses are scaled.
        labels: Float32 tensor (batch, K), one-hot or soft.
        targets: Float32 tensor (batch, K), one-hot, where the loss has any.
    """

    targeted = False
    short_name = "CE"

    def __init__(
        self,
        classifier: Callable,
        labels: Tensor,
        targets: Tensor | None = None,
    ) -> None:
        self.labels = labels
        self.targets = targets
        self.half = numerics.computes_in_float16(classifier)

    @staticmethod
    def note(num_classes: int) -> str | None:
        """What takes its place for so few classes, or `None`."""
        return None

    def values(self, logits: Tensor) -> Tensor:
        """Loss of each image, float32 (batch,)."""
        return cross_entropy(self.labels, logits)

    def scaled(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Losses whose gradients do not underflow in float16."""
        return numerics.scaled_losses(losses, self.labels, logits)

    def values_and_total(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each image, and the scalar whose gradient is followed."""
        losses = self.values(logits)
        followed = self.scaled(losses, logits) if self.half else losses
        return losses, ops.sum(followed)


class DLR(CrossEntropy):
    """The difference of logits ratio."""

    short_name = "DLR"

    @staticmethod
    def note(num_classes: int) -> str | None:
        """What takes its place for so few classes, or `None`."""
        if num_classes >= 3:
            return None
        return (
            "The DLR loss divides by the difference of the first and the "
            f"third largest logit. With {num_classes} classes the margin "
            "max_{k≠y} z_k − z_y takes its place."
        )

    def values(self, logits: Tensor) -> Tensor:
        """Loss of each image, float32 (batch,)."""
        return dlr_loss(self.labels, logits)

    def scaled(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Losses whose gradients do not underflow in float16."""
        scale = dlr_scale(logits, self.targeted)
        # The gradient of a margin is 1 at the logits.
        size = ops.ones_like(losses) if scale is None else 1 / scale
        return numerics.scaled_by(losses, size)


class TargetedDLR(DLR):
    """The difference of logits ratio towards a class."""

    targeted = True
    short_name = "T"

    @staticmethod
    def note(num_classes: int) -> str | None:
        """What takes its place for so few classes, or `None`."""
        if num_classes >= 4:
            return None
        return (
            "The targeted DLR loss divides by a difference that takes the "
            f"fourth largest logit. With {num_classes} classes the margin "
            "z_t − z_y takes its place."
        )

    def values(self, logits: Tensor) -> Tensor:
        """Loss of each image, float32 (batch,)."""
        return targeted_dlr_loss(self.labels, self.targets, logits)


ATTACK_LOSSES = {
    "cross_entropy": CrossEntropy,
    "dlr": DLR,
    "dlr_targeted": TargetedDLR,
}

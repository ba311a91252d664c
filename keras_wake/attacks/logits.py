"""What attacks make of the logits of a classifier: losses and targets."""

from collections.abc import Callable

import keras
from keras import ops

from keras_wake.backend import numerics
from keras_wake.losses import cross_entropy
from keras_wake.losses import dlr_loss
from keras_wake.losses import targeted_dlr_loss
from keras_wake.losses.margin import dlr_scale
from keras_wake.losses.margin import wrong_logits
from keras_wake.utils.types import Tensor


def stateless_logits(classifier: Callable, training: bool = False) -> Callable:
    """A function from images to logits that changes nothing in the classifier.

    It drops what a call of the classifier would update: statistics, in training
    mode, and the seeds of random layers. So every call draws the same random
    numbers. To draw others, pass an int32 scalar tensor `draw`, which counts
    the calls.
    """
    state = [(v, v.value) for v in getattr(classifier, "variables", ())]

    def logits_of(images: Tensor, draw: Tensor | None = None) -> Tensor:
        now = state if draw is None else [_later(*pair, draw) for pair in state]
        with keras.StatelessScope(state_mapping=now):
            return classifier(images, training=training)

    return logits_of


# More random operations than a network has.
_OPERATIONS = 1024


def _later(
    variable: keras.Variable, value: Tensor, draw: Tensor
) -> tuple[keras.Variable, Tensor]:
    """A variable and its value; a seed is moved on by so many calls."""
    if variable.name != "seed_generator_state":
        return variable, value
    # The seed, and the number of the random operation.
    moved = ops.stack([ops.zeros_like(draw), _OPERATIONS * (draw + 1)])
    return variable, value + ops.cast(moved, value.dtype)


def likely_wrong_class(
    labels: Tensor, logits: Tensor, number: Tensor
) -> Tensor:
    """The likeliest wrong class after `number` others, one-hot (batch, K)."""
    others = logits.shape[-1] - 1
    _, classes = ops.top_k(wrong_logits(labels, logits), others)
    target = ops.take(classes, number, axis=1)
    return ops.one_hot(target, logits.shape[-1], dtype="float32")


class CrossEntropy:
    """The cross-entropy of the label; `targets` are for targeted losses."""

    short_name = "CE"
    targeted = False
    # With fewer classes a margin takes its place, and `substitute` says so.
    fewest_classes = 2
    substitute = ""

    def __init__(
        self,
        classifier: Callable,
        labels: Tensor,
        targets: Tensor | None = None,
    ) -> None:
        self.labels = labels
        self.targets = targets
        self.half = numerics.computes_in_float16(classifier)

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
    fewest_classes = 3
    substitute = (
        "The DLR loss divides by the difference of the first and the third "
        "largest logit. With {} classes the margin max_{{k≠y}} z_k − z_y "
        "takes its place."
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

    short_name = "T"
    targeted = True
    fewest_classes = 4
    substitute = (
        "The targeted DLR loss divides by a difference that takes the fourth "
        "largest logit. With {} classes the margin z_t − z_y takes its place."
    )

    def values(self, logits: Tensor) -> Tensor:
        """Loss of each image, float32 (batch,)."""
        return targeted_dlr_loss(self.labels, self.targets, logits)


ATTACK_LOSSES = {
    "cross_entropy": CrossEntropy,
    "dlr": DLR,
    "dlr_targeted": TargetedDLR,
}

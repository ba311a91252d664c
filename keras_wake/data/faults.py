"""Faults in the values of a batch, counted within the compiled step.

A compiled step cannot raise an error. So it counts images with NaN or out of
bounds, labels that name no class, losses and weights that became NaN, and
goes on; the counts are read and raised after the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_wake.utils.types import Tensor

# Resizing and normalising round: a pixel may become -3e-8.
BOUNDS_TOLERANCE = 1e-6


def count_faults(
    x: Tensor, labels: Tensor, bounds: tuple[float, float]
) -> Tensor:
    """Counts the images and labels of a batch that cannot be right.

    Args:
        x: Float tensor (batch, ...), images.
        labels: Float tensor (batch, K), from `one_hot_labels`.
        bounds: Smallest and largest pixel value.

    Returns:
        Float32 tensor (3,): images with NaN or infinity, images outside the
        bounds, labels that name no class.
    """
    low, high = bounds
    axes = tuple(range(1, len(x.shape)))
    finite = ops.all(ops.isfinite(x), axis=axes)
    smallest, largest = ops.min(x, axis=axes), ops.max(x, axis=axes)
    tolerance = BOUNDS_TOLERANCE * max(1.0, abs(low), abs(high))
    outside = ops.logical_or(
        smallest < low - tolerance, largest > high + tolerance
    )
    # With NaN in a soft label, both comparisons are false.
    named = ops.logical_and(
        ops.abs(ops.sum(labels, axis=-1) - 1) < 1e-3,
        ops.min(labels, axis=-1) >= -BOUNDS_TOLERANCE,
    )
    faults = [
        ops.logical_not(finite),
        ops.logical_and(finite, outside),
        ops.logical_not(named),
    ]
    return ops.stack([ops.sum(ops.cast(f, "float32")) for f in faults])


class FaultCounts(NamedTuple):
    """What `InputFaults` has counted since the last reset.

    Attributes:
        not_finite: Images with NaN or infinity.
        outside: Images outside the bounds.
        unnamed: Labels that name no class.
        empty: Batches without an image, on a replica.
        weights: Sample weights that cannot be right.
        bad_losses: Steps of training whose loss is not finite.
        bad_updates: Steps of training that made weights NaN or infinite.
        shapes: Batches whose images have a wrong shape.
        lengths: Batches with another number of labels or weights than images.
    """

    not_finite: int
    outside: int
    unnamed: int
    empty: int
    weights: int
    bad_losses: int
    bad_updates: int
    shapes: int
    lengths: int


class InputFaults(keras.metrics.Metric):
    """Counts the faults of all batches and replicas since the last reset.

    It is a metric, because the state of a metric adds up over replicas and is
    not saved. It has no entry in the logs.
    """

    def __init__(self) -> None:
        super().__init__(name="input_faults", dtype="float32")
        # All fields of `FaultCounts` in one variable, because each variable
        # that is read waits for all replicas.
        self.counts = self.add_variable(
            (len(FaultCounts._fields),), initializer="zeros", dtype="float32"
        )

    def update_state(self, **faults: Tensor) -> None:
        """Adds numbers of faults, by the names of `FaultCounts`."""
        added = [faults.get(name, 0) for name in FaultCounts._fields]
        added = [ops.cast(number, "float32") for number in added]
        self.counts.assign_add(ops.stack(added))

    def result(self) -> dict[str, Tensor]:
        """Empty, so that nothing is logged."""
        return {}


def has_length(values: Tensor, count: int | Tensor) -> bool | Tensor:
    """Whether there are `count` values.

    A tensor where TensorFlow learns the length only in the step.
    """
    found = ops.shape(values)[0]
    if isinstance(found, int) and isinstance(count, int):
        return found == count
    return ops.equal(found, count)


def value_or_zeros(
    shape_is_right: bool | Tensor, value: Tensor, shape: tuple
) -> Tensor:
    """`value` if its shape is right, else zeros of the right shape.

    With zeros the step can go on; the fault is raised after it.

    Args:
        shape_is_right: True, or a tensor where TensorFlow learns the shape
            only in the step.
        value: Tensor.
        shape: The right shape.
    """
    if shape_is_right is True:
        return value
    return ops.cond(
        shape_is_right,
        lambda: ops.reshape(value, shape),
        lambda: ops.zeros(shape, value.dtype),
    )


def raise_for_batches(
    counts: FaultCounts, needs_images: bool, where: str
) -> None:
    """Raises a `ValueError` for faults of shapes, lengths and weights.

    Args:
        counts: The counts of `InputFaults`.
        needs_images: Whether each replica must get an image.
        where: Which batches were looked at, for the message.
    """
    if counts.shapes:
        raise ValueError(
            f"The images {where} do not have the shape that the classifier "
            "expects. Resize the images, or build the classifier for their "
            "shape."
        )
    if counts.lengths:
        raise ValueError(
            f"Images, labels and weights {where} do not have the same length. "
            "Each image needs one label."
        )
    if counts.weights:
        raise ValueError(
            f"{counts.weights} sample weight(s) {where} are negative, NaN or "
            "infinite. They must be finite and at least 0."
        )
    if counts.empty and needs_images:
        raise ValueError(
            f"{counts.empty} replica(s) got no image {where}, and the batch "
            "norm there has no statistics. Choose a batch size that "
            "leaves at least one image for each replica, drop the "
            "remainder, or use `BatchNormalization(synchronized=True)`."
        )


def raise_for_values(
    faults: Sequence[float] | np.ndarray,
    bounds: tuple[float, float],
    num_classes: int,
    where: str,
) -> None:
    """Raises a `ValueError` for the counts of `count_faults`."""
    not_finite, outside, unnamed = (int(count) for count in faults)
    if not_finite:
        raise ValueError(
            f"{not_finite} image(s) {where} contain NaN or infinity. Remove "
            "them or find the step of the input pipeline that makes them."
        )
    if outside:
        low, high = bounds
        raise ValueError(
            f"{outside} image(s) {where} lie outside the bounds [{low:g}, "
            f"{high:g}] of the threat model. Scale the images to the bounds "
            "(divide by 255), or pass `bounds=` to the attack; normalise "
            "inside the classifier."
        )
    if unnamed:
        raise ValueError(
            f"{unnamed} label(s) {where} name no class. Class numbers must be "
            f"between 0 and {num_classes - 1}; one-hot and soft labels must "
            "be at least 0 and sum to 1."
        )

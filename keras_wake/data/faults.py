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

from keras_wake import backend
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
        Float32 tensor (3,): the first three of `FaultCounts`.
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
    """Faults of a batch."""

    # Images with NaN or infinity; images outside the bounds; labels that name
    # no class.
    not_finite: int
    outside: int
    bad_labels: int
    # Replicas without an image.
    empty: int = 0
    # Sample weights that cannot be right.
    bad_weights: int = 0
    # Replicas whose loss is not finite, or whose weights became so.
    bad_losses: int = 0
    bad_updates: int = 0
    # Replicas whose images have a wrong shape, or that have another number of
    # labels or weights than images.
    bad_shapes: int = 0
    bad_lengths: int = 0


class InputFaults(keras.metrics.Metric):
    """Remembers the first batch since the last reset that has faults.

    The batches after it are not counted any more, so that a message that comes
    later names the right batch and the right numbers. It is a metric, because
    Keras resets metrics with each pass over the data and saves none of them.
    It has no entry in the logs.
    """

    def __init__(self) -> None:
        super().__init__(name="input_faults", dtype="float32")
        # In one variable, because each that is read waits for the device: the
        # number of batches, that of the first with a fault (0: none has), and
        # its `FaultCounts`. Float32 counts batches up to 2**24.
        self.first = self.add_variable(
            (2 + len(FaultCounts._fields),),
            initializer="zeros",
            dtype="float32",
            # Each replica holds the sum of all.
            aggregation="only_first_replica",
        )

    def update_state(self, **faults: Tensor) -> None:
        """Counts a batch.

        Args:
            **faults: Numbers of faults on this replica, by the names of
                `FaultCounts`.
        """
        found = backend.global_sum(
            ops.stack(
                [
                    ops.cast(faults.get(name, 0), "float32")
                    for name in FaultCounts._fields
                ]
            )
        )
        before = ops.convert_to_tensor(self.first)
        batch = before[:1] + 1
        is_first = ops.logical_and(before[1:2] == 0, ops.sum(found) > 0)
        newest = ops.concatenate([batch, found])
        self.first.assign(
            ops.concatenate([batch, ops.where(is_first, newest, before[1:])])
        )

    def result(self) -> dict[str, Tensor]:
        """Empty, so that nothing is logged."""
        return {}


class FirstFault(NamedTuple):
    """The value of `InputFaults`.

    Attributes:
        batch: Number of the first one with a fault, from 1; 0 without any.
        counts: Its faults, over all replicas.
    """

    batch: int
    counts: FaultCounts

    @classmethod
    def from_values(cls, values: np.ndarray) -> "FirstFault":
        """Reads the variable of `InputFaults`."""
        _, batch, *counts = map(int, values)
        return cls(batch, FaultCounts(*counts))


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

    With zeros the step can go on; the fault is raised after it. The first
    argument is True, or a tensor where TensorFlow learns the shape only in the
    step.
    """
    if shape_is_right is True:
        return value
    return ops.cond(
        shape_is_right,
        lambda: ops.reshape(value, shape),
        lambda: ops.zeros(shape, value.dtype),
    )


def raise_for_faults(
    found: Sequence[float] | np.ndarray,
    bounds: tuple[float, float],
    num_classes: int,
    where: str,
    needs_images: bool = False,
) -> None:
    """Raises a `ValueError` for faults of the data.

    Args:
        found: `FaultCounts`, or the result of `count_faults`.
        bounds: Smallest and largest pixel value.
        num_classes: K.
        where: Which images were looked at, for the message.
        needs_images: Whether each replica must get an image. Defaults to
            `False`.
    """
    counts = FaultCounts(*map(int, found))
    if counts.bad_shapes:
        message = (
            f"The images {where} do not have the shape that the classifier "
            "expects. Resize the images, or build the classifier for their "
            "shape."
        )
    elif counts.bad_lengths:
        message = (
            f"Images, labels and weights {where} do not have the same length. "
            "Each image needs one label."
        )
    elif counts.bad_weights:
        message = (
            f"{counts.bad_weights} sample weight(s) {where} are negative, NaN "
            "or infinite. They must be finite and at least 0."
        )
    elif counts.empty and needs_images:
        message = (
            f"{counts.empty} replica(s) got no image {where}, and the batch "
            "norm there has no statistics. Choose a batch size that "
            "leaves at least one image for each replica, drop the "
            "remainder, or use `BatchNormalization(synchronized=True)`."
        )
    elif counts.not_finite:
        message = (
            f"{counts.not_finite} image(s) {where} contain NaN or infinity. "
            "Remove them or find the step of the input pipeline that makes "
            "them."
        )
    elif counts.outside:
        low, high = bounds
        message = (
            f"{counts.outside} image(s) {where} lie outside the bounds "
            f"[{low:g}, {high:g}] of the threat model. Scale the images to "
            "the bounds (divide by 255), or pass `bounds=` to the attack; "
            "normalise inside the classifier."
        )
    elif counts.bad_labels:
        message = (
            f"{counts.bad_labels} label(s) {where} name no class. Class "
            f"numbers must be between 0 and {num_classes - 1}; one-hot and "
            "soft labels must be at least 0 and sum to 1."
        )
    else:
        return
    raise ValueError(message)

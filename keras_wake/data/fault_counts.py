"""Values that cannot be right, counted within a compiled step.

NaN, pixels out of bounds, labels that no class has, a loss or weights that
became NaN. Counted by tensors, so that every batch of every kind of data set
is looked at without leaving the step; what was counted is raised outside.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

# Rounding of resizing or normalising makes values like -3e-8, where pixels are
# at most 1.
BOUNDS_TOLERANCE = 1e-6


def count_faults(x: Any, labels: Any, bounds: tuple[float, float]) -> Any:
    """Counts the samples of a batch that cannot be right.

    Args:
        x: Float tensor (batch, ...), images.
        labels: Float tensor (batch, K) as `one_hot_labels` returns it.
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
    # Written so that a NaN in soft labels is a fault, too.
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
        losses: Steps of training whose loss is not finite.
        updates: Steps of training that made weights NaN or infinite.
        shapes: Batches whose images have a wrong shape.
        lengths: Batches with another number of labels or weights than images.
    """

    not_finite: int
    outside: int
    unnamed: int
    empty: int
    weights: int
    losses: int
    updates: int
    shapes: int
    lengths: int


class InputFaults(keras.metrics.Metric):
    """The faults of all batches since the last reset, over all replicas.

    The losses that are not finite as well, which are read at the same time.

    A metric, because that is the state that adds up over replicas and that
    no checkpoint holds. It has no entry in the logs.
    """

    def __init__(self) -> None:
        super().__init__(name="input_faults", dtype="float32")
        # One variable: reading it waits for all replicas, once a step. It
        # holds the faults of images and labels, batches without an image,
        # sample weights that cannot be right, losses, updates, batches whose
        # images have a wrong shape, and batches with another number of labels
        # or weights than images: the fields of `FaultCounts`, in this order.
        size = len(FaultCounts._fields)
        self.counts = self.add_variable(
            (size,), initializer="zeros", dtype="float32"
        )

    def update_state(
        self,
        faults: Any,
        size: Any,
        bad_weights: Any,
        shapes: Sequence[Any] = (),
        lengths: Sequence[Any] = (),
    ) -> None:
        """Adds a batch.

        Args:
            faults: What `count_faults` returns.
            size: Number of images.
            bad_weights: Number of sample weights that cannot be right.
            shapes: Whether the images have the right shape: True, or tensors.
            lengths: Whether labels and weights are as many as the images:
                True, or tensors.
        """
        zero = ops.zeros((), "float32")
        empty = ops.cast(ops.equal(size, 0), "float32")
        others = [empty, bad_weights, zero, zero]
        for group in (shapes, lengths):
            wrong = zero
            for right in group:
                if right is not True:
                    wrong = wrong + 1 - ops.cast(right, "float32")
            others.append(wrong)
        self.counts.assign_add(ops.concatenate([faults, ops.stack(others)]))

    def count_loss(self, loss: Any) -> None:
        """Counts a step of training whose loss is NaN or infinite."""
        self._count_unless(ops.isfinite(loss), "losses")

    def count_update(self, weights: list[Any]) -> None:
        """Counts a step of training that made weights NaN or infinite."""
        finite = [ops.all(ops.isfinite(weight)) for weight in weights]
        self._count_unless(ops.all(ops.stack(finite)), "updates")

    def _count_unless(self, good: Any, field: str) -> None:
        bad = ops.cast(ops.logical_not(good), "float32")
        one = [float(name == field) for name in FaultCounts._fields]
        self.counts.assign_add(bad * ops.convert_to_tensor(one, "float32"))

    def result(self) -> dict[str, Any]:
        """Nothing for the logs."""
        return {}


def has_length(values: Any, count: Any) -> Any:
    """Whether there are `count` values.

    A bool, or a tensor if TensorFlow knows it only when the step runs.
    """
    found = ops.shape(values)[0]
    if isinstance(found, int) and isinstance(count, int):
        return found == count
    return ops.equal(found, count)


def value_or_zeros(
    shape_is_right: Any, value: Any, shape: tuple[Any, ...]
) -> Any:
    """`value` if its shape is right, else zeros of that shape.

    The step goes on with zeros; the fault is counted, and raised after it.

    Args:
        shape_is_right: True where that is known before the step runs, else a
            tensor.
        value: Tensor.
        shape: The right sizes.
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
    """Raises a `ValueError` for batches that cannot be right.

    Args:
        counts: What `InputFaults` has counted.
        needs_images: Whether each replica must have had an image.
        where: Which batches, for the message.
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


def raise_for_faults(
    faults: Any, bounds: tuple[float, float], num_classes: int, where: str
) -> None:
    """Raises a `ValueError` that names what `count_faults` has counted."""
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

"""The two rules by which the teacher averages the student."""

from collections.abc import Iterator

import keras
from keras import ops

from keras_wake import backend
from keras_wake.utils.types import Tensor


def float_buffers(
    student: keras.Model, teacher: keras.Model
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of the teacher's and the student's buffers (PyTorch modules).

    Without those of integers: `num_batches_tracked` is not averaged.
    """
    pairs = zip(backend.buffers(teacher), backend.buffers(student), strict=True)
    return [
        (mean, value)
        for mean, value in pairs
        if keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(mean.dtype)
        )
    ]


def averaging_rate(decay: float, warmup: bool, updates: Tensor) -> Tensor:
    """1 − α of one update, a float32 scalar.

    Args:
        decay: α.
        warmup: Whether α is at most (1 + n) / (10 + n).
        updates: Integer scalar n, the updates before this one.
    """
    rate = ops.convert_to_tensor(1 - decay, "float32")
    if warmup:
        n = ops.cast(updates, "float32")
        rate = ops.maximum(rate, 1 - (1 + n) / (10 + n))
    return rate


def exponential_average(
    student: keras.Model,
    teacher: keras.Model,
    buffers: list[tuple[Tensor, Tensor]],
    rate: Tensor,
    active: Tensor,
    copy_statistics: bool = False,
) -> None:
    """Moves the teacher by θ̄ ← θ̄ − rate · (θ̄ − θ), within a step.

    Args:
        student: θ.
        teacher: θ̄, of the same architecture.
        buffers: What `float_buffers` returns for them.
        rate: Float32 scalar, 1 − α.
        active: Boolean scalar; if false nothing changes.
        copy_statistics: Whether the teacher takes over what is not trained,
            such as statistics of batch norm, as it is in the student.
            Defaults to `False`.
    """
    trainable = {id(variable) for variable in student.trainable_variables}
    for mean, value in _float_pairs(student, teacher):
        target = ops.convert_to_tensor(value)
        current = ops.convert_to_tensor(mean)
        if id(value) in trainable or not copy_statistics:
            target = current - ops.cast(rate, mean.dtype) * (current - target)
        # `where`, because a product with 0 would let NaN of the student into
        # a frozen teacher.
        mean.assign(ops.where(active, target, current))
    for mean, value in buffers:
        target = mean - ops.cast(rate, mean.dtype) * (mean - value)
        target = value if copy_statistics else target
        mean.copy_(ops.where(active, target, mean))


def equal_average(
    student: keras.Model,
    teacher: keras.Model,
    buffers: list[tuple[Tensor, Tensor]],
    count: int,
) -> None:
    """Moves the teacher by θ̄ ← θ̄ + (θ − θ̄) / (count + 1), between steps.

    Args:
        student: θ.
        teacher: θ̄, of the same architecture.
        buffers: What `float_buffers` returns for them.
        count: How many students are in the average already.
    """
    for mean, value in _float_pairs(student, teacher):
        mean.assign(mean + (ops.convert_to_tensor(value) - mean) / (count + 1))
    for mean, value in buffers:
        mean.copy_(mean + (value - mean) / (count + 1))


def _float_pairs(
    student: keras.Model, teacher: keras.Model
) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """Pairs of the teacher's and the student's floating-point variables."""
    for mean, value in zip(teacher.variables, student.variables, strict=True):
        if keras.backend.is_float_dtype(mean.dtype):
            yield mean, value

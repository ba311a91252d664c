"""The loop of an attack, which ends for an image once it is misclassified.

Most images that an attack breaks are misclassified after a few steps. Without
them the further steps have less to compute.
"""

from collections.abc import Callable
from typing import Protocol
from typing import TypeVar

import keras
from keras import ops

from keras_wake import backend
from keras_wake.utils.types import Tensor

# Misclassified images leave the batch when they are at least 1 / `LEAVE` of it.
# Not one by one: for each new size of a batch, kernels are prepared.
LEAVE = 8


class SearchState(Protocol):
    """A named tuple of tensors, as far as the loop needs to know it."""

    @property
    def step(self) -> Tensor:
        """Number of steps so far, an int32 scalar."""

    @property
    def found(self) -> Tensor:
        """Which images are misclassified, bool (batch,)."""


Given = TypeVar("Given")
State = TypeVar("State", bound=SearchState)


def until_found(
    step: Callable[[Given, State], State],
    given: Given,
    start: State,
    steps: int,
    result: Callable[[State], Tensor],
) -> Tensor:
    """Repeats `step`, for each image until it is misclassified.

    A misclassified image leaves the batch, unless the backend compiles for one
    size of a batch. Then it stays until all are misclassified, so further steps
    must not change its result.

    Args:
        step: Maps `given` and a state to the next state.
        given: What no step changes: a named tuple of tensors (batch, ...).
        start: The first state: a named tuple of tensors (batch, ...), apart
            from the scalar `step`.
        steps: The `step` of a state at which the loop ends.
        result: Maps a state to its result, a tensor (batch, ...).

    Returns:
        The results of all images, in their order.
    """

    def steps_while(condition: Callable, given: Given, state: State) -> State:
        def goes_on(now: State) -> Tensor:
            return ops.logical_and(now.step < steps, condition(now))

        return ops.while_loop(
            goes_on, lambda now: (step(given, now),), (state,)
        )[0]

    if not backend.batches_may_shrink():
        end = steps_while(lambda now: ops.any(~now.found), given, start)
        return result(end)

    def some_stand(
        rows: Tensor, results: Tensor, given: Given, now: State
    ) -> Tensor:
        return ops.logical_and(now.step < steps, ops.shape(rows)[0] > 0)

    def until_some_fall(
        rows: Tensor, results: Tensor, given: Given, now: State
    ) -> tuple:
        size = ops.shape(rows)[0]
        now = steps_while(
            lambda now: LEAVE * _count(now.found) < size, given, now
        )
        results = ops.scatter_update(results, rows[:, None], result(now))
        (standing,) = ops.nonzero(~now.found)
        rows, given, now = keras.tree.map_structure(
            # The number of the step is the only scalar.
            lambda value: (
                ops.take(value, standing, axis=0) if len(value.shape) else value
            ),
            (rows, given, now),
        )
        return rows, results, given, now

    rows = ops.arange(ops.shape(start.found)[0], dtype="int32")
    state = (rows, result(start), given, start)
    return backend.while_loop_of_any_size(some_stand, until_some_fall, state)[1]


def _count(found: Tensor) -> Tensor:
    return ops.sum(ops.cast(found, "int32"))

"""The teacher: a copy of the student that is averaged and not trained."""

from typing import Any

import keras
from keras import ops

from keras_wake import backend
from keras_wake.training import teacher_copy
from keras_wake.utils.types import Tensor


class Teacher:
    """The copy of the student, and the state of its average.

    Args:
        student: The classifier that is trained.
        network: The copy of it.
        bounds: Smallest and largest pixel value of the images.
        averaging: Variable, above 0 while the copy follows the student.
        updates: Variable that counts the averages.
    """

    def __init__(
        self,
        student: keras.Model,
        network: keras.Model,
        bounds: tuple[float, float],
        averaging: keras.Variable,
        updates: keras.Variable,
    ) -> None:
        self.student = student
        self.network = network
        self.averaging = averaging
        self.updates = updates
        self._bounds = bounds
        self._variables_at_start = [id(v) for v in student.variables]

    def check_and_update(self) -> None:
        """Checks the student and takes over attributes that were changed.

        Raises:
            ValueError: If it has other variables than when the model was
                made.
        """
        variables = self.student.variables
        if [id(v) for v in variables] != self._variables_at_start:
            raise ValueError(
                f"The classifier {self.student.name!r} has changed since "
                "this `WakeModel` was made, and the teacher is still a copy "
                "of what it was. Make a new `WakeModel` with it. Received: "
                f"{len(variables)} variables, and "
                f"{len(self._variables_at_start)} before."
            )
        teacher_copy.bring_over_attributes(self.student, self.network)

    def check_same_function(self) -> None:
        """Refuses a student that the teacher is no longer a copy of.

        Raises:
            ValueError: If it computes something else with the same weights.
        """
        teacher_copy.check_same_function(
            self.student, self.network, self._bounds
        )

    def logits(self, images: Tensor, like: Tensor, weight: Tensor) -> Tensor:
        """The teacher's logits without gradient.

        Args:
            images: Float32 tensor (batch, ...).
            like: The student's logits (batch, K).
            weight: λ_t. While it is 0, nothing is computed.

        Returns:
            Logits like those of the student; zeros while the weight is 0.
        """
        return backend.without_gradient(
            lambda: ops.cond(
                weight > 0,
                lambda: ops.cast(
                    self.network(images, training=False), like.dtype
                ),
                lambda: ops.zeros_like(like),
            )
        )

    def average(self, averager: Any, updated: Tensor) -> None:
        """θ̄ ← α θ̄ + (1 − α) θ, within a step.

        Args:
            averager: The callback that averages.
            updated: Above 0 if the step has updated θ.
        """
        active = ops.logical_and(self.averaging > 0, updated > 0)
        averager.average(self.student, self.network, self.updates, active)
        self.updates.assign_add(ops.cast(active, "int32"))

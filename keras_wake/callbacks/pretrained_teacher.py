"""A teacher that was trained before and does not change."""

from typing import Any

import keras

from keras_wake import _inputs
from keras_wake import _validate


class PretrainedTeacher(keras.callbacks.Callback):
    """Distils from a frozen network, with a constant weight.

    With teachers 1, 2, … of weights λ_1, λ_2, … the student minimises

        (1 − λ_1 − λ_2 − …) · objective + Σ_i λ_i · KD(f_student, f_teacher_i)

    on the images of the last input of the objective, adversarial ones as a
    rule. Temperature and scale of KD are those of the `WakeModel`. Two such
    teachers and `StochasticWeightAveraging` are KDSWA (Chen et al. 2021): the
    published weights are 0.6 for a robust teacher, 0.1 for one of regular
    training, and 0.3 for the cross-entropy.

    The teacher is no part of the model: checkpoints do not hold it, and a run
    that is resumed passes it again.

    Args:
        teacher: Built `keras.Model`: images to logits (batch, K), of the
            classes of the student. Neither attacked nor changed.
        weight: λ_i in [0, 1].

    Raises:
        TypeError: If `teacher` is no model.
        ValueError: If `weight` is out of range, or the teacher returns no
            logits; in `fit`, if it does not know the student's classes, or if
            the weights of all teachers exceed 1.

    Example:

    ```python
    robust = keras.models.load_model("robust.keras")
    regular = keras.models.load_model("regular.keras")
    model.fit(
        train,
        epochs=200,
        callbacks=[
            keras_wake.PretrainedTeacher(robust, weight=0.6),
            keras_wake.PretrainedTeacher(regular, weight=0.1),
            keras_wake.StochasticWeightAveraging(start_epoch=55, data=images),
        ],
    )
    ```
    """

    def __init__(self, teacher: keras.Model, weight: float) -> None:
        super().__init__()
        self.num_classes = _inputs.check_classifier(teacher)
        self.teacher = teacher
        self.weight = _validate.in_range(0, 1, weight=weight)

    def set_model(self, model: Any) -> None:
        """Has the student learn from the teacher, before a step is compiled."""
        super().set_model(model)
        if not hasattr(model, "enable_pretrained"):
            raise TypeError(
                "`PretrainedTeacher` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}."
            )
        model.enable_pretrained(self)

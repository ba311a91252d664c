"""A teacher that was trained before and does not change."""

import keras

from keras_wake.callbacks._base import WakeCallback
from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import input_shape
from keras_wake.utils import validate


class PretrainedTeacher(WakeCallback):
    """Distils from a frozen network, with a constant weight.

    With teachers 1, 2, … of weights λ_1, λ_2, … the student minimises

        (1 − λ_1 − λ_2 − …) · objective + Σ_i λ_i · KD(f_student, f_teacher_i)

    on the images of the last input of the objective, adversarial ones as a
    rule. Temperature and scale of KD are those of the `WakeModel`. Two such
    teachers and `StochasticWeightAveraging` are KDSWA (Chen et al. 2021), as
    published with weights 0.6 for a robust teacher, 0.1 for one of regular
    training, and 0.3 for the cross-entropy. Checkpoints do not hold the
    teacher: a run that is resumed passes it again.

    Args:
        teacher: Built `keras.Model`: images to logits (batch, K), of the
            classes of the student. Neither attacked nor changed.
        weight: λ_i in [0, 1].

    Raises:
        TypeError: If `teacher` is no model, or a `WakeModel`, which is two.
        ValueError: If `weight` is out of range, or the teacher returns no
            logits; in `fit`, if its images or classes are not the student's,
            if it shares variables with the model, if the callback is given
            twice, or if the weights of all teachers exceed 1.

    Example:

    ```python
    robust = keras.models.load_model("robust.keras")
    regular = keras.models.load_model("regular.keras")
    model.fit(
        train,
        epochs=200,
        callbacks=[
            kw.PretrainedTeacher(robust, weight=0.6),
            kw.PretrainedTeacher(regular, weight=0.1),
            kw.StochasticWeightAveraging(start_epoch=55, data=images),
        ],
    )
    ```
    """

    def __init__(self, teacher: keras.Model, weight: float) -> None:
        super().__init__()
        if not isinstance(teacher, keras.Model):
            raise TypeError(
                "`teacher` must be a built `keras.Model` that maps images to "
                "logits; from a file, `keras.models.load_model(path)`. "
                f"Received: teacher={teacher!r} (of type "
                f"{type(teacher).__name__})."
            )
        self.num_classes = check_classifier(teacher)
        self.teacher = teacher
        self.weight = validate.in_range(0, 1, weight=weight)

    def set_model(self, model: keras.Model) -> None:
        """Switches the teacher on, before the step is compiled."""
        super().set_model(model)
        own = {id(variable) for variable in model.variables}
        shared = [v.path for v in self.teacher.variables if id(v) in own]
        if shared:
            raise ValueError(
                "A pretrained teacher must be a network of its own, else it "
                "changes with the student. Received: "
                f"{self.teacher.name!r}, which shares {len(shared)} variables "
                f"with the `WakeModel`, {shared[0]!r} the first of them. Copy "
                'it: `teacher.save("teacher.keras")`, then '
                '`keras.models.load_model("teacher.keras")`.'
            )
        student = input_shape(model.classifier)
        teacher = input_shape(self.teacher)
        if len(student) != len(teacher) or any(
            None not in sizes and len(set(sizes)) > 1
            for sizes in zip(student[1:], teacher[1:], strict=True)
        ):
            raise ValueError(
                "A teacher must take the images of the student. Received: a "
                f"teacher {self.teacher.name!r} for images of shape "
                f"{teacher[1:]}, and a student for {student[1:]}."
            )
        model.enable_pretrained(self)

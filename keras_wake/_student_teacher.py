"""The two networks of a `WakeModel`: the student trains, the teacher averages.

What counts as trainable, what callbacks switch on, and what a checkpoint
holds follows from that.
"""

from typing import Any

import keras

from keras_wake import backend
from keras_wake._keras_loop import KerasLoop
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import find_head
from keras_wake.backend import keras_compat
from keras_wake.checkpoint.files import written_whole
from keras_wake.training import teacher_copy

# What a compiled step has taken over, and a new value would not reach.
_SETTINGS = (
    "attack",
    "classifier",
    "eval_attack",
    "num_classes",
    "objective",
    "scale_distillation",
    "schedule",
    "seed",
    "teacher",
    "temperature",
)


class StudentAndTeacher(KerasLoop):
    """Base of `WakeModel`: its networks and the state beside them."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses new values for the arguments of the constructor."""
        if name in _SETTINGS and getattr(self, "built", False):
            raise AttributeError(
                f"`{name}` of a `WakeModel` cannot be set: a compiled step "
                "would go on with the old value. Make a new `WakeModel`. "
                f"Received: {name}={value!r}."
            )
        super().__setattr__(name, value)

    def _add_networks(self, classifier: Any, head: Any) -> None:
        """Makes the teacher, finds the heads, adds the variables."""
        self.classifier = classifier
        bounds = (self.attack or self.eval_attack).bounds
        self.teacher = teacher_copy.copy_of(classifier, bounds)
        self._variables_at_start = [id(v) for v in classifier.variables]
        self.head: Any = None
        self.teacher_head: Any = None
        self._head_name = getattr(head, "name", head)
        try:
            self.head = find_head(classifier, head, self.num_classes)
            self.teacher_head = counterpart(self.head, classifier, self.teacher)
        except ValueError as error:
            if head is not None:
                raise
            self._no_head = str(error)
        self._add_variables()

    def _add_variables(self) -> None:
        """Whatever a callback changes, or a resumed run has to continue."""

        def variable(name: str, dtype: str) -> Any:
            return self.add_weight(
                shape=(),
                initializer="zeros",
                dtype=dtype,
                trainable=False,
                name=name,
            )

        self.kd_weight = variable("kd_weight", "float32")
        self.teacher_averaging = variable("teacher_averaging", "float32")
        self.teacher_updates = variable("teacher_updates", "int32")
        self.train_steps = variable("train_steps", "int32")

    @property
    def robust_classifier(self) -> keras.Model:
        """What the algorithm returns: the teacher in use, else the student."""
        return self.teacher if self.teacher_in_use else self.classifier

    def enable_teacher(self, averager: Any) -> None:
        """Has `averager.average(...)` called after every update.

        Args:
            averager: The callback that asks. It defines `average(student,
                teacher, updates, active)`, and `distils`: whether the student
                may learn from the average, which then is a teacher from the
                first step on.

        Raises:
            ValueError: If another callback has asked before.
        """
        if self._averager not in (None, averager):
            raise ValueError(
                "A model has one average, so one callback may make it. "
                f"Received: {type(self._averager).__name__} and "
                f"{type(averager).__name__} among the callbacks."
            )
        self._averager = averager

    def enable_pretrained(self, teacher: Any) -> None:
        """Has the student learn from a network that was trained before.

        Args:
            teacher: The callback that asks. It has `teacher`, a checked
                `keras.Model` of `num_classes`, and `weight`, the constant
                weight of its term.

        Raises:
            ValueError: If the network does not fit the student, or the
                weights of all teachers are more than 1 together.
        """
        network = teacher.teacher
        classes = teacher.num_classes
        if classes != self.num_classes:
            raise ValueError(
                "A teacher must know the classes of the student. Received: a "
                f"teacher of {classes} classes for a student of "
                f"{self.num_classes}."
            )
        if network is self.classifier or network is self.teacher:
            raise ValueError(
                "A pretrained teacher must be a network of its own. Received: "
                f"{network.name!r}, a network of the `WakeModel` itself."
            )
        teachers = (*self._pretrained, teacher)
        weights = [each.weight for each in teachers]
        schedule = self.schedule
        average = 0.0 if schedule is None else schedule.largest_weight
        if sum(weights) + average > 1 + 1e-6:
            raise ValueError(
                "The weights of all teachers must not exceed 1 together. "
                f"Received: {weights} for pretrained teachers, and up to "
                f"{average:g} for the average, by the schedule."
            )
        self._pretrained = teachers

    def enable_attribution(self) -> None:
        """Has the evaluation accumulate attribution vectors.

        Raises:
            ValueError: If the head of the classifier was not found.
        """
        if self.head is None:
            raise ValueError(
                f"{self._no_head} For the validation pass, name it here: "
                "`WakeModel(..., head='layer name')`."
            )
        self._attribution_on = True

    @property
    def losses(self) -> list[Any]:
        """The student's regularisers; the teacher's take no part."""
        return keras_compat.losses_in_scope(self) or self.classifier.losses

    @property
    def trainable_variables(self) -> list[Any]:
        """The student's; the teacher's are averaged, not trained."""
        return self.classifier.trainable_variables if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Any]:
        """All others, the teacher's among them.

        Also those of pretrained teachers, which are no part of the model: a
        step of JAX must be given what it reads.
        """
        trained = {id(v) for v in self.trainable_variables}
        own = [v for v in self.variables if id(v) not in trained]
        return own + [v for t in self._pretrained for v in t.teacher.variables]

    @property
    def trainable_weights(self) -> list[Any]:
        """The student's trainable weights."""
        return self.classifier.trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        """All other weights, the teacher's among them."""
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]

    @property
    def layers(self) -> list[Any]:
        """The student and the teacher; the heads are layers of theirs."""
        return [self.classifier, self.teacher]

    def check_and_update_teacher(self) -> None:
        """Checks the classifier and copies changed attributes to the teacher.

        Raises:
            ValueError: If it has other variables than when the model was
                made.
        """
        variables = self.classifier.variables
        if [id(v) for v in variables] != self._variables_at_start:
            raise ValueError(
                f"The classifier {self.classifier.name!r} has changed since "
                "this `WakeModel` was made, and the teacher is still a copy "
                "of what it was. Make a new `WakeModel` with it. Received: "
                f"{len(variables)} variables, and "
                f"{len(self._variables_at_start)} before."
            )
        teacher_copy.bring_over_attributes(self.classifier, self.teacher)

    def compare_teacher(self) -> None:
        """Refuses a classifier that the teacher is no longer a copy of.

        Raises:
            ValueError: If it computes something else with the same weights.
        """
        bounds = (self.attack or self.eval_attack).bounds
        teacher_copy.check_same_function(self.classifier, self.teacher, bounds)

    def check_optimizer(self) -> None:
        """Refuses an optimizer that was made for other variables.

        Raises:
            ValueError: If other layers are trainable than at the first step.
        """
        if not self.compiled:
            return  # Keras says so.
        optimizer: Any = self.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not getattr(optimizer, "built", False):
            return
        now = [id(v) for v in self.trainable_variables]
        then = [id(v) for v in keras_compat.trained_variables(optimizer)]
        if now != then:
            raise ValueError(
                "The trainable layers have changed since the last training: "
                "call `compile` again, with a new optimizer. "
                f"Received: {len(now)} trainable variables, and {len(then)} "
                "before."
            )

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the classifier is built already."""

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> Any:
        """Saves the model, as `keras.Model.save`.

        The file is complete or what it was before, also for a kill.

        Raises:
            ValueError: If the name does not end in `.keras`.
        """
        with (
            written_whole(filepath, ".keras", overwrite) as path,
            backend.alone(),
        ):
            return super().save(path, overwrite=overwrite, **kwargs)

    def save_weights(
        self, filepath: Any, overwrite: bool = True, **kwargs: Any
    ) -> Any:
        """Saves the weights, as `keras.Model.save_weights`.

        The file is complete or what it was before, also for a kill.

        Raises:
            ValueError: If the name does not end in `.weights.h5`, or with
                `max_shard_size` in `.weights.json`.
        """
        sharded = kwargs.get("max_shard_size") is not None
        ending = ".weights.json" if sharded else ".weights.h5"
        with (
            written_whole(filepath, ending, overwrite) as path,
            backend.alone(),
        ):
            return super().save_weights(path, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Exports `robust_classifier`, as `keras.Model.export`."""
        return self.robust_classifier.export(filepath, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Also saves the random states, of dropout say, which Keras forgets."""
        super().save_own_variables(store)
        for name, variable in self._random_states().items():
            store[name] = backend.to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` has saved."""
        states = self._random_states()
        super().load_own_variables(
            {key: store[key] for key in store.keys() if key not in states}
        )
        for name, variable in states.items():
            if name in store.keys():
                variable.assign(store[name])

    def _random_states(self) -> dict[str, Any]:
        weights = {id(weight) for weight in self.weights}
        states = [v for v in self.variables if id(v) not in weights]
        return {f"random_state_{n}": v for n, v in enumerate(states)}

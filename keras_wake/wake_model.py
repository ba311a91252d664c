"""What happens to a batch, in the order in which it happens.

Images and labels → attack on the student → student (and teacher) → objective
and distillation → optimiser → teacher average → logs. The compiled step that
strings these together is in `keras_wake.backend`.
"""

from typing import Any

import keras
from keras import ops

from keras_wake import backend
from keras_wake import objectives
from keras_wake._evaluation import Evaluation
from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.backend import numerics
from keras_wake.data import input_checks
from keras_wake.losses import distillation_loss
from keras_wake.losses.distillation import check_temperature
from keras_wake.objectives.objective import losses_of
from keras_wake.objectives.objective import WeightPerturbation
from keras_wake.schedules import Schedule
from keras_wake.utils import validate
from keras_wake.utils.seeds import CounterSeed


@keras.saving.register_keras_serializable(package="keras_wake")
class WakeModel(Evaluation):
    """Adversarial training of a classifier, with WAKE (Algorithm 2).

    In each step the attack finds δ on the student; the student then minimises

        (1 − λ_t) · objective + λ_t · KD(f_student(x + δ), f_teacher(x + δ))

    where λ_t is the schedule's weight in epoch t and the teacher is a running
    average of the student, switched on by a callback
    (`keras_wake.callbacks.EMATeacher`). Without a schedule and a teacher this
    is plain adversarial training. Networks that were trained before can be
    teachers as well, with constant weights
    (`keras_wake.callbacks.PretrainedTeacher`).

    Calling the model, or `predict`, gives the student's logits. What the
    algorithm returns is the averaged network, `robust_classifier`.

    Logs of training: `loss`, `robust_accuracy` (on the training batches as
    attacked; `accuracy` for an objective that sees clean images) and
    `kd_weight`. Logs of `evaluate`, with the prefix `val_` during `fit`:
    `loss` (the objective without distillation), `accuracy` (clean images),
    `robust_accuracy` (under `eval_attack`), with a teacher in use
    `teacher_accuracy` and `teacher_robust_accuracy` (attacked on its own), with
    `CrossClassAttribution` also `cas` and `teacher_cas`. An image whose
    `sample_weight` is 0 takes no part in them. Metrics given to `compile` are
    computed on clean images in `evaluate`.

    Args:
        classifier: Built `keras.Model`: float images (batch, ...) within the
            attack's bounds to logits (batch, K), K ≥ 2.
        attack: Attack of the training step. One that leaves its loss open
            ascends that of the objective. May be `None` for an objective that
            sees only clean images.
        objective: `"at"`, `"trades"`, `"mart"`, `"awp"`, `"standard"` or an
            `Objective`. Defaults to `"at"`.
        eval_attack: Attack of `evaluate`. Defaults to `None`: PGD with 20
            steps in the threat model of `attack`, step size epsilon / 4
            (epsilon / 8 for ℓ2).
        schedule: `DistillationRamp` or `AdaptiveRamp`, or `None` for no
            distillation from the average. A schedule needs an `EMATeacher`.
        temperature: T of the distillation, between 1e-6 and 1e6. Defaults to
            `2.0`.
        scale_distillation: Whether KD is multiplied by T². Defaults to
            `True`.
        head: Name of the Dense layer that makes the logits, for attribution
            in models where it cannot be found. Defaults to `None`.
        seed: Integer seed of the attacks' random starts. Defaults to `0`.
        **kwargs: `name`, as for every Keras model.

    Raises:
        TypeError: If the classifier is no model, an attack is no attack or a
            schedule is none.
        ValueError: If the classifier does not return logits (batch, K), or an
            argument is out of range.

    Example:

    ```python
    classifier = keras_wake.models.PreActResNet18(num_classes=10)
    model = keras_wake.WakeModel(
        classifier,
        attack=keras_wake.attacks.PGD(steps=10),
        schedule=keras_wake.schedules.DistillationRamp(100, 110),
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(
        train,
        validation_data=validation,
        epochs=200,
        callbacks=[keras_wake.callbacks.EMATeacher(decay=0.999)],
    )
    model.robust_classifier.save("robust.keras")
    ```
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack | None,
        objective: Any = "at",
        eval_attack: Attack | None = None,
        schedule: Schedule | None = None,
        temperature: float = 2.0,
        scale_distillation: bool = True,
        head: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        num_classes = input_checks.check_classifier(classifier)
        # The policy has Keras scale the loss for float16; images and
        # perturbations stay in float32, and the layers cast them.
        half = numerics.computes_in_float16(classifier)
        policy = "mixed_float16" if half else "float32"
        super().__init__(dtype=policy, autocast=False, **kwargs)
        self.num_classes = num_classes
        self.objective = objectives.get(objective)
        self.attack = _check_attack(attack=attack)
        if isinstance(attack, PGD):
            self.attack = attack.for_objective(self.objective)
        if attack is None and "adversarial" in self.objective.inputs:
            raise ValueError(
                f"The objective {self.objective.name!r} trains on adversarial "
                "images and needs an attack. Received: attack=None."
            )
        if eval_attack is None:
            eval_attack = PGD() if attack is None else attack
            eval_attack = PGD.for_evaluation(eval_attack)
        self.eval_attack = _check_attack(eval_attack=eval_attack)
        if attack is not None and attack.bounds != eval_attack.bounds:
            raise ValueError(
                "`attack` and `eval_attack` must have the same bounds, those "
                f"of the images. Received: {attack.bounds} and "
                f"{eval_attack.bounds}."
            )
        if not isinstance(schedule, (Schedule, type(None))):
            raise TypeError(
                "`schedule` must be a `DistillationRamp`, an `AdaptiveRamp` or "
                f"None. Received: schedule={schedule!r}."
            )
        self.schedule = schedule
        self.temperature = check_temperature(temperature)
        self.scale_distillation = validate.boolean(
            scale_distillation=scale_distillation
        )
        self.seed = validate.seed(seed=seed)

        # State cannot be added to a model once it is built, so the teacher
        # and the accumulators are made here and idle until a callback
        # switches them on.
        self._prepare_loop(classifier)
        self._add_networks(classifier, head)
        self._add_metrics()
        self._perturbation = WeightPerturbation()
        self.built = True

    # A training step ----------------------------------------------------

    def adversarial_batch(self, data: Any) -> tuple[Any, Any, Any]:
        """First part of a step: checks the batch and attacks the student."""
        x, labels, sample_weight = self._checked(data)
        self.train_steps.assign_add(1)
        images = {}
        for name in self.objective.inputs:
            if name == "clean":
                images[name] = x
                continue
            seed = CounterSeed(
                self.seed, self.train_steps, 7919 * backend.replica_index()
            )
            images[name] = self.attack.perturb(self.classifier, x, labels, seed)
        return images, labels, sample_weight

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's logits (batch, K); of a dictionary, one for each."""
        if not isinstance(inputs, dict):
            return self.classifier(inputs, training=training)
        return {
            name: self.classifier(images, training=training)
            for name, images in inputs.items()
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The blend of objective and distillation, averaged over the batch.

        The average is over the global batch, so that replicas with shares of
        different size add up to what one replica would have computed.
        """
        if self.keeps_assignments_of_forward_pass:
            self._perturbation.after_forward_pass()
        losses, weight = self._distilled(x, y, y_pred)
        if sample_weight is not None:
            losses = losses * sample_weight
        count = ops.cast(ops.shape(losses)[0], "float32")
        loss = ops.sum(losses) / backend.global_sum(count)

        extra = self._regularisers()
        self._loss.update_state(losses + extra)
        self._kd_weight_mean.update_state(weight)
        loss = loss + extra / backend.global_sum(ops.ones((), "float32"))
        self.input_faults.count_loss(loss)
        return loss

    def _regularisers(self) -> Any:
        return sum((ops.cast(ops.sum(e), "float32") for e in self.losses), 0.0)

    def _distilled(self, x: Any, y: Any, y_pred: Any) -> tuple[Any, Any]:
        """The blend for each sample, and the weight of distillation in it."""
        losses = losses_of(self.objective, y, y_pred)
        images, student = (
            values[self.objective.inputs[-1]] for values in (x, y_pred)
        )
        weight = ops.zeros((), "float32")
        terms = []
        if self._averager is not None and self._averager.distils:
            weight = ops.convert_to_tensor(self.kd_weight)
            terms.append((weight, self._average_logits(images, student)))
        for each in self._pretrained:
            logits = backend.without_gradient(
                lambda each=each: each.teacher(images, training=False)
            )
            terms.append((each.weight, logits))
            weight = weight + each.weight
        if not terms:
            return losses, weight
        losses = (1 - weight) * losses
        for share, logits in terms:
            losses = losses + share * distillation_loss(
                student, logits, self.temperature, self.scale_distillation
            )
        return losses, weight

    def _average_logits(self, images: Any, like: Any) -> Any:
        """The teacher's logits without gradient; zeros while λ_t is 0."""
        return backend.without_gradient(
            lambda: ops.cond(
                self.kd_weight > 0,
                lambda: ops.cast(
                    self.teacher(images, training=False), like.dtype
                ),
                lambda: ops.zeros_like(like),
            )
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Accuracy of the training batch, on the images that were trained."""
        if not isinstance(y_pred, dict):
            # Keras builds the compiled metrics from symbolic tensors.
            return super().compute_metrics(x, y, y_pred, sample_weight)
        trackers = {
            "clean": self._accuracy,
            "adversarial": self._robust_accuracy,
        }
        for name, logits in y_pred.items():
            trackers[name].update_state(numerics.hits(y, logits))
        return {}

    def optimizer_updates(self) -> Any:
        """How often the weights were updated; not each step with
        `gradient_accumulation_steps`."""
        return ops.cast(self.optimizer.iterations, "int32") + 0

    def perturb_weights(self, batch: Any) -> WeightPerturbation:
        """Between attack and update: has the objective move the weights."""
        moved = self.objective.perturb_weights(self.classifier, *batch)
        self._perturbation = moved
        return moved

    def after_update(self, updated: Any) -> None:
        """Last part of a step: θ̄ ← α θ̄ + (1 − α) θ, if θ was updated.

        Also looks whether θ is still finite: the gradient of a finite loss
        need not be.
        """
        if self.trainable_variables:
            self.input_faults.count_update(self.trainable_variables)
        if self._averager is None or not self._averager.distils:
            return
        active = ops.logical_and(self.teacher_averaging > 0, updated > 0)
        self._averager.average(
            self.classifier, self.teacher, self.teacher_updates, active
        )
        self.teacher_updates.assign_add(ops.cast(active, "int32"))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, serialised."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "classifier": serialize(self.classifier),
            "attack": serialize(self.attack),
            "objective": serialize(self.objective),
            "eval_attack": serialize(self.eval_attack),
            "schedule": serialize(self.schedule),
            "temperature": self.temperature,
            "scale_distillation": self.scale_distillation,
            "head": self._head_name,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WakeModel":
        """Makes the model again from `get_config()`, without its weights."""
        config = dict(config)
        for name in (
            "classifier",
            "attack",
            "objective",
            "eval_attack",
            "schedule",
        ):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _check_attack(**kwargs: Any) -> Any:
    ((name, attack),) = kwargs.items()
    if attack is not None and not isinstance(attack, Attack):
        raise TypeError(
            f"`{name}` must be an attack such as `keras_wake.attacks.PGD()`. "
            f"Received: {name}={attack!r}."
        )
    return attack

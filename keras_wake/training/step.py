"""What a `WakeModel` does with one batch.

Training: images and labels → attack on the student → perturbation of the
weights → student (and teacher) → objective and distillation → optimizer →
average → logs. The `Trainer` of the backend calls these parts in this order,
around the update of the weights that Keras makes.
"""

import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attribution.metric import ClassAttributionSimilarity
from keras_wake.backend.numerics import hits
from keras_wake.losses import distillation_loss
from keras_wake.objectives.objective import losses_of
from keras_wake.objectives.objective import Objective
from keras_wake.objectives.objective import WeightPerturbation
from keras_wake.training.guard import BatchGuard
from keras_wake.training.metrics import mean
from keras_wake.training.metrics import NetworkMetrics
from keras_wake.training.session import Switches
from keras_wake.training.teacher import Teacher
from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.types import Tensor

# Keeps the random numbers of evaluation apart from those of training.
_EVALUATION_STREAM = 0x5EED
MAX_CLASSES_FOR_CAS_IN_STEP = 200


def _replica_stream(first: int) -> Tensor:
    """A number that gives each replica random numbers of its own."""
    return first + 7919 * backend.replica_index()


def _regularisation(regularisers: list[Tensor]) -> Tensor:
    return sum((ops.cast(ops.sum(e), "float32") for e in regularisers), 0.0)


class _OfReplica(threading.local):
    """What a step keeps until its end. Each replica runs in its own thread."""

    def __init__(self) -> None:
        self.perturbation = WeightPerturbation()


class TrainingStep:
    """A training step, in the parts that surround Keras's update.

    Args:
        teacher: The student and its average.
        metrics: Of the student.
        guard: Checks each batch.
        objective: What the student minimises besides distillation.
        attack: What makes adversarial images; `None` for none.
        temperature: T of the distillation.
        scale_distillation: Whether distillation is multiplied by T².
        kd_weight: Variable, λ_t.
        seed: Of the attack's random starts.
        steps: Variable that counts the steps.
        switches: What callbacks have switched on.
    """

    def __init__(
        self,
        teacher: Teacher,
        metrics: NetworkMetrics,
        guard: BatchGuard,
        objective: Objective,
        attack: Attack | None,
        temperature: float,
        scale_distillation: bool,
        kd_weight: keras.Variable,
        seed: int,
        steps: keras.Variable,
        switches: Switches,
    ) -> None:
        self.student = teacher.student
        self.teacher = teacher
        self.guard = guard
        self.objective = objective
        self.attack: Any = attack
        self.temperature = temperature
        self.scale_distillation = scale_distillation
        self.kd_weight = kd_weight
        self.seed = seed
        self.steps = steps
        self.switches = switches
        self.loss = mean("loss")
        self.kd_weight_mean = mean("kd_weight")
        self._of_replica = _OfReplica()
        self._accuracies = {
            "clean": metrics.accuracy,
            "adversarial": metrics.robust_accuracy,
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What a step updates, and logs."""
        seen = [self._accuracies[name] for name in self.objective.inputs]
        return [self.loss, *seen, self.kd_weight_mean]

    def attacked(
        self, data: Any
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Checks a batch, and attacks the student with it.

        Returns:
            The images of each of the objective's `inputs`, labels (batch, K)
            and sample weights (batch,).
        """
        x, labels, sample_weight = self.guard.checked(data)
        self.steps.assign_add(1)
        images = {}
        for name in self.objective.inputs:
            if name == "clean":
                images[name] = x
                continue
            seed = CounterSeed(self.seed, self.steps, _replica_stream(0))
            images[name] = self.attack.perturb(self.student, x, labels, seed)
        return images, labels, sample_weight

    def perturb_weights(self, batch: Any) -> None:
        """Has the objective move the weights for the update, as AWP does."""
        self._of_replica.perturbation = self.objective.perturb_weights(
            self.student, *batch
        )

    def total_loss(
        self,
        images: dict[str, Tensor],
        labels: Tensor,
        logits: dict[str, Tensor],
        sample_weight: Tensor | None,
        regularisers: list[Tensor],
    ) -> Tensor:
        """Objective and distillation, averaged over the global batch.

        So the losses of replicas with unequal shares add up to the loss of
        one replica.

        Args:
            images: As `attacked` returns them.
            labels: Float32 tensor (batch, K).
            logits: The student's, for each entry of `images`.
            sample_weight: Float32 tensor (batch,), or `None`.
            regularisers: Losses that layers have added.
        """
        if backend.Trainer.keeps_assignments_of_forward_pass:
            self._of_replica.perturbation.after_forward_pass()
        losses, weight = self._losses(images, labels, logits)
        if sample_weight is not None:
            losses = losses * sample_weight
        count = ops.cast(ops.shape(losses)[0], "float32")
        loss = ops.sum(losses) / backend.global_sum(count)

        extra = _regularisation(regularisers)
        self.loss.update_state(losses + extra)
        self.kd_weight_mean.update_state(weight)
        loss = loss + extra / backend.global_sum(ops.ones((), "float32"))
        self.guard.counts.count_loss(loss)
        return loss

    def _losses(
        self,
        images: dict[str, Tensor],
        labels: Tensor,
        logits: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Loss of each sample, and the weight of distillation in it."""
        losses = losses_of(self.objective, labels, logits)
        last = self.objective.inputs[-1]
        weight = ops.zeros((), "float32")
        terms = []
        if self.switches.distils:
            weight = ops.convert_to_tensor(self.kd_weight)
            average = self.teacher.logits(images[last], logits[last], weight)
            terms.append((weight, average))
        for each in self.switches.pretrained:
            logits_of_teacher = backend.without_gradient(
                lambda each=each: each.teacher(images[last], training=False)
            )
            terms.append((each.weight, logits_of_teacher))
            weight = weight + each.weight
        if not terms:
            return losses, weight
        losses = (1 - weight) * losses
        for share, targets in terms:
            losses = losses + share * distillation_loss(
                logits[last],
                targets,
                self.temperature,
                self.scale_distillation,
            )
        return losses, weight

    def update_accuracy(
        self, labels: Tensor, logits: dict[str, Tensor]
    ) -> None:
        """Accuracy of the batch, on the images that were trained on."""
        for name, values in logits.items():
            self._accuracies[name].update_state(hits(labels, values))

    def finish(self, updated: Tensor) -> None:
        """Takes the perturbation back, and averages the student.

        Args:
            updated: Above 0 if the optimizer has updated the weights.
        """
        self._of_replica.perturbation.restore()
        # The gradient of a finite loss need not be finite.
        if self.student.trainable_variables:
            self.guard.counts.count_update(self.student.trainable_variables)
        if self.switches.distils:
            self.teacher.average(self.switches.averager, updated)


class EvaluationStep:
    """A step of `evaluate`.

    Args:
        training: The training step, with which it has the rest in common.
        student: Metrics of the student.
        teacher: Metrics of the teacher.
        attack: What makes the adversarial images.

    Attributes:
        with_teacher: Whether the teacher is evaluated, too. Read before a
            step is compiled, which cannot read it.
    """

    def __init__(
        self,
        training: TrainingStep,
        student: NetworkMetrics,
        teacher: NetworkMetrics,
        attack: Attack,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.attack = attack
        self.guard = training.guard
        self.objective = training.objective
        self.seed = training.seed
        self.loss = training.loss
        self.switches = training.switches
        self.with_teacher = False

    @property
    def networks(self) -> list[NetworkMetrics]:
        """What is evaluated."""
        return [self.student, *[self.teacher] * self.with_teacher]

    def evaluate(
        self,
        data: Any,
        regularisers: Callable[[], list[Tensor]],
        compiled: keras.metrics.Metric | None,
    ) -> dict[str, Tensor]:
        """Updates the metrics with one batch, and returns the logs.

        Args:
            data: Images, labels and perhaps weights, as Keras hands them in.
            regularisers: Returns the losses that layers of the student
                have added in its last pass.
            compiled: The metrics given to `compile`, on clean images.
        """
        x, labels, sample_weight = self.guard.checked(data)
        # An image of weight 0 is not there: some pipelines fill a batch up.
        present = None if sample_weight is None else sample_weight > 0
        for network in self.networks:
            # From the number of images seen in this pass, so that each pass
            # over the same images has the same random starts.
            seed = CounterSeed(
                self.seed,
                ops.cast(self.student.accuracy.count, "int32"),
                _replica_stream(_EVALUATION_STREAM),
            )
            logits = network.evaluate(
                self.attack, x, labels, seed, present, self.switches.attribution
            )
            if network is not self.student:
                continue
            losses = losses_of(self.objective, labels, logits)
            if sample_weight is not None:
                losses = losses * sample_weight
            regularisation = _regularisation(regularisers())
            self.loss.update_state(losses + regularisation, present)
            if compiled is not None:
                _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
                compiled.update_state(y, logits["clean"], sample_weight)
        return self._logs(compiled)

    def metrics(
        self, compiled: keras.metrics.Metric | None
    ) -> list[keras.metrics.Metric]:
        """What a step updates, in the order of the logs."""
        metrics = [
            self.loss,
            self.student.accuracy,
            self.student.robust_accuracy,
        ]
        if compiled is not None:
            metrics.append(compiled)
        if self.with_teacher:
            metrics += [self.teacher.accuracy, self.teacher.robust_accuracy]
        if self.switches.attribution:
            metrics += [network.attribution for network in self.networks]
        return metrics

    def _logs(self, compiled: keras.metrics.Metric | None) -> dict[str, Tensor]:
        """The logs after a batch.

        CAS compares all classes with each other. Of many, that would take
        longer than the batch: it is NaN until the pass has ended.
        """
        logs: dict[str, Tensor] = {}
        for metric in self.metrics(compiled):
            is_cas = isinstance(metric, ClassAttributionSimilarity)
            if is_cas and metric.counts.shape[0] > MAX_CLASSES_FOR_CAS_IN_STEP:
                logs[metric.name] = ops.convert_to_tensor(np.nan, "float32")
                continue
            result = metric.result()
            named = isinstance(result, dict)
            logs.update(result if named else {metric.name: result})
        return logs

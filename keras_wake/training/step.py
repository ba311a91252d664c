"""What a `WakeModel` does with one batch of `fit`.

Images and labels → checks → attack on the student → perturbation of the
weights → student (and teacher) → objective and distillation → optimizer →
average → logs. The `Trainer` of the backend calls these parts in this order,
around the update of the weights that Keras makes.
"""

import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.backend.numerics import hits
from keras_wake.losses import distillation_loss
from keras_wake.objectives.objective import losses_of
from keras_wake.objectives.objective import Objective
from keras_wake.objectives.objective import WeightPerturbation
from keras_wake.training import teacher_copy
from keras_wake.training.guard import BatchGuard
from keras_wake.training.reduced_precision import check_attack_for_copy
from keras_wake.training.reduced_precision import ReducedPrecisionCopy
from keras_wake.training.session import Switches
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Tensor


def mean(name: str) -> keras.metrics.Mean:
    """A mean in float32, whatever `floatx` is: half cannot count past 2048."""
    return keras.metrics.Mean(name=name, dtype="float32")


def sample_seed(seed: SampleSeed, x: Tensor, first: Tensor = 0) -> SampleSeed:
    """The seed for the images of this replica's share of a batch.

    An image is told by its position among all that are attacked with `seed`,
    so that its random numbers do not depend on the number of replicas.

    Args:
        seed: Of all these images.
        x: Tensor (batch, ...), the share of this replica.
        first: The position of the first image of the batch. Defaults to `0`.
    """
    return seed.for_samples(first + backend.batch_positions(ops.shape(x)[0]))


def attacked(
    attack: Attack,
    network: keras.Model | ReducedPrecisionCopy,
    x: Tensor,
    labels: Tensor,
    seed: SampleSeed,
    jit: bool,
) -> Tensor:
    """Adversarial images of a step, compiled by themselves if `jit`."""

    def perturb(
        network: Callable,
        x: Tensor,
        labels: Tensor,
        stream: Tensor,
        ids: Tensor,
    ) -> Tensor:
        return attack.perturb(network, x, labels, SampleSeed(stream, ids))

    run = backend.jit(perturb, network) if jit else partial(perturb, network)
    return run(x, labels, seed.seed, seed.ids)


def regularisation(regularisers: list[Tensor]) -> Tensor:
    """The sum of the losses that layers have added."""
    return sum((ops.cast(ops.sum(e), "float32") for e in regularisers), 0.0)


class _ReplicaState(threading.local):
    """What a step keeps until its end. Each replica runs in its own thread."""

    def __init__(self) -> None:
        self.perturbation = WeightPerturbation()
        self.faults: dict[str, Tensor] = {}


@dataclasses.dataclass(eq=False)
class TrainingStep:
    """A training step, in the parts that surround Keras's update.

    Attributes:
        guard: Checks each batch.
        student: The network that is trained.
        teacher: Its copy, which is averaged.
        accuracies: Metric for each kind of images that an objective may see.
        objective: What the student minimises besides distillation.
        attack: What makes adversarial images; `None` for none.
        reduced: The copy that it attacks; `None` to attack the student.
        temperature: T of the distillation.
        scale_distillation: Whether distillation is multiplied by T².
        seed: Of the attack's random starts.
        kd_weight: Variable, λ_t.
        teacher_averaging: Variable, above 0 while the teacher is averaged.
        teacher_updates: Variable that counts the averages.
        train_steps: Variable that counts the steps.
        switches: What callbacks have switched on.
    """

    guard: BatchGuard
    student: keras.Model
    teacher: keras.Model
    accuracies: dict[str, keras.metrics.Metric]
    objective: Objective
    attack: Attack | None
    reduced: ReducedPrecisionCopy | None
    temperature: float
    scale_distillation: bool
    seed: int
    kd_weight: keras.Variable
    teacher_averaging: keras.Variable
    teacher_updates: keras.Variable
    train_steps: keras.Variable
    switches: Switches

    def __post_init__(self) -> None:
        self.jit_attack = False
        self.loss = mean("loss")
        self.kd_weight_mean = mean("kd_weight")
        self._copied = tuple(self.student.variables)
        if self.reduced is not None:
            check_attack_for_copy(self.attack)
        self._replica_state = _ReplicaState()

    def bring_copies_up_to_date(self) -> None:
        """Gives the copies the attributes that were set on the student since.

        Raises:
            ValueError: If the student has other variables by now.
        """
        teacher_copy.bring_up_to_date(self.student, self.teacher, self._copied)
        if self.reduced is not None:
            self.reduced.bring_up_to_date(self._copied)

    def prepare_attack(self, jit: bool) -> None:
        """Prepares the attack of the next step.

        Args:
            jit: Whether it is compiled by itself.
        """
        self.jit_attack = jit
        if self.reduced is not None:
            self.reduced.bring_up_to_date(self._copied)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What a step updates, and logs."""
        seen = [self.accuracies[name] for name in self.objective.inputs]
        return [self.loss, *seen, self.kd_weight_mean]

    def check_and_attack(
        self, data: Any
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Checks a batch, counts the step, and attacks the student.

        Returns:
            The images of each of the objective's `inputs`, labels (batch, K)
            and sample weights (batch,).
        """
        x, labels, sample_weight, found = self.guard.checked(data)
        self._replica_state.faults = found
        self.train_steps.assign_add(1)
        images = {}
        for name in self.objective.inputs:
            if name == "clean" or self.attack is None:
                images[name] = x
                continue
            seed = SampleSeed(self.seed, 0).substream(self.train_steps)
            images[name] = attacked(
                self.attack,
                self.reduced or self.student,
                x,
                labels,
                sample_seed(seed, x),
                self.jit_attack,
            )
        return images, labels, sample_weight

    def perturb_weights(self, batch: Any) -> None:
        """Lets the objective move the weights for the update, as AWP does."""
        self._replica_state.perturbation = self.objective.perturb_weights(
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

        It is divided by the size of the global batch, so that the losses of
        the replicas add up to that of a single one, also with unequal shares.

        Args:
            images: As `check_and_attack` returns them.
            labels: Float32 tensor (batch, K).
            logits: The student's, for each entry of `images`.
            sample_weight: Float32 tensor (batch,), or `None`.
            regularisers: Losses that layers have added.
        """
        if backend.Trainer.keeps_assignments_of_forward_pass:
            self._replica_state.perturbation.after_forward_pass()
        losses, weight = self._distilled(
            losses_of(self.objective, labels, logits), images, logits
        )
        if sample_weight is not None:
            losses = losses * sample_weight
        count = ops.cast(ops.shape(losses)[0], "float32")
        loss = ops.sum(losses) / backend.global_sum(count)

        extra = regularisation(regularisers)
        self.loss.update_state(losses + extra)
        self.kd_weight_mean.update_state(weight)
        return loss + extra / backend.global_sum(ops.ones((), "float32"))

    def _distilled(
        self,
        losses: Tensor,
        images: dict[str, Tensor],
        logits: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses with distillation from all teachers, and its weight in them.

        The teachers see the last of the objective's `inputs`.
        """
        last = self.objective.inputs[-1]
        weight = ops.zeros((), "float32")
        terms = []
        if self.switches.distils:
            weight = ops.convert_to_tensor(self.kd_weight)
            average = self._teacher_logits(images[last], logits[last], weight)
            terms.append((weight, average))
        for callback in self.switches.pretrained:
            logits_of_teacher = backend.without_gradient(
                lambda network=callback.teacher: network(
                    images[last], training=False
                )
            )
            terms.append((callback.weight, logits_of_teacher))
            weight = weight + callback.weight
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

    def _teacher_logits(
        self, images: Tensor, like: Tensor, weight: Tensor
    ) -> Tensor:
        """Logits of the averaged teacher.

        While `weight` is 0 the teacher does not run, and these are zeros.
        """
        return backend.without_gradient(
            lambda: ops.cond(
                weight > 0,
                lambda: ops.cast(
                    self.teacher(images, training=False), like.dtype
                ),
                lambda: ops.zeros_like(like),
            )
        )

    def update_accuracy(
        self, labels: Tensor, logits: dict[str, Tensor]
    ) -> None:
        """Accuracy of the batch, on the images that were trained on."""
        for name, values in logits.items():
            self.accuracies[name].update_state(hits(labels, values))

    def finish(self, updated: Tensor) -> None:
        """Takes the perturbation back, counts faults, averages the student.

        Args:
            updated: Above 0 if the optimizer has updated the weights.
        """
        self._replica_state.perturbation.restore()
        # The gradient of a finite loss need not be finite. The sum of the
        # losses is not as soon as one was not.
        weights = self.student.trainable_variables
        self.guard.faults.update_state(
            **self._replica_state.faults,
            bad_losses=~ops.isfinite(ops.convert_to_tensor(self.loss.total)),
            bad_updates=~backend.all_finite(weights),
        )
        if self.switches.distils:
            active = ops.logical_and(self.teacher_averaging > 0, updated > 0)
            self.switches.averager.average(
                self.student, self.teacher, self.teacher_updates, active
            )
            self.teacher_updates.assign_add(ops.cast(active, "int32"))

"""What a `WakeModel` does with one batch of `evaluate`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import find_head
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features
from keras_wake.attribution.metric import ClassAttributionSimilarity
from keras_wake.backend.numerics import hits
from keras_wake.objectives.objective import losses_of
from keras_wake.objectives.objective import Objective
from keras_wake.training.step import attacked
from keras_wake.training.step import mean
from keras_wake.training.step import regularisation
from keras_wake.training.step import sample_seed
from keras_wake.training.step import TrainingStep
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Tensor

# Keeps the random numbers of evaluation apart from those of training.
_EVALUATION_STREAM = 0x5EED
MAX_CLASSES_FOR_CAS_IN_STEP = 200


def check_attacks(
    attack: Attack | None, eval_attack: Attack | None, objective: Objective
) -> tuple[Attack | None, Attack]:
    """Checks both attacks, and fills in what they leave open."""
    for name, value in (("attack", attack), ("eval_attack", eval_attack)):
        if not isinstance(value, (Attack, type(None))):
            raise TypeError(
                f"`{name}` must be an attack such as "
                f"`keras_wake.attacks.PGD()`. Received: {name}={value!r}."
            )
    if attack is None:
        if "adversarial" in objective.inputs:
            raise ValueError(
                f"The objective {objective.name!r} trains on adversarial "
                "images and needs an attack. Received: attack=None."
            )
        return None, eval_attack or PGD.for_evaluation(PGD())
    eval_attack = eval_attack or PGD.for_evaluation(attack)
    if attack.bounds != eval_attack.bounds:
        raise ValueError(
            "`attack` and `eval_attack` must have the same bounds, those of "
            f"the images. Received: {attack.bounds} and {eval_attack.bounds}."
        )
    return attack.for_objective(objective), eval_attack


def find_heads(
    student: keras.Model, teacher: keras.Model, head: Any, num_classes: int
) -> tuple[Any, Any, str]:
    """The Dense layers that make the logits of both, for attribution.

    Args:
        student: The classifier.
        teacher: A copy of it.
        head: Name of the layer in the student, or `None` to look for it.
        num_classes: K.

    Returns:
        The layers and `""`; or `None` twice, and why there is none.

    Raises:
        ValueError: If a head is named and cannot be used.
    """
    try:
        found = find_head(student, head, num_classes)
        return found, counterpart(found, student, teacher), ""
    except ValueError as error:
        if head is not None:
            raise
        return None, None, str(error)


class NetworkMetrics:
    """What is measured of the student, or of the teacher.

    Args:
        network: Maps images to logits (batch, K).
        head: Its last Dense layer, or `None` where there is no attribution.
        num_classes: K.
        prefix: What the names of the metrics begin with. Defaults to `""`.

    Attributes:
        accuracy: On clean images.
        robust_accuracy: On adversarial images.
        attribution: CAS, or `None` without a head.
    """

    def __init__(
        self,
        network: keras.Model,
        head: Any,
        num_classes: int,
        prefix: str = "",
    ) -> None:
        self.network = network
        self.head = head
        self.accuracy = mean(f"{prefix}accuracy")
        self.robust_accuracy = mean(f"{prefix}robust_accuracy")
        self.attribution: Any = None
        if head is not None:
            self.attribution = ClassAttributionSimilarity(
                num_classes, head_features(head), name=f"{prefix}cas"
            )

    def update(
        self,
        attack: Attack,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        present: Tensor | None,
        with_attribution: bool,
        jit: bool = False,
    ) -> dict[str, Tensor]:
        """Updates the metrics with a batch.

        Args:
            attack: What makes the adversarial images, on this network.
            x: Float32 tensor (batch, ...), images.
            labels: Float32 tensor (batch, K).
            seed: Random numbers of the attack.
            present: Boolean tensor (batch,), false for images that take no
                part; `None` if all do.
            with_attribution: Whether to measure attribution.
            jit: Whether the attack is compiled by itself. Defaults to
                `False`.

        Returns:
            The logits (batch, K) of `"clean"` and `"adversarial"` images.
        """
        clean = self.network(x, training=False)
        adversarial = attacked(attack, self.network, x, labels, seed, jit)
        if with_attribution:
            robust, features = logits_and_features(
                self.network, self.head, adversarial
            )
            self.attribution.update_state(
                labels, features, head_weights(self.head), present
            )
        else:
            robust = self.network(adversarial, training=False)
        self.accuracy.update_state(hits(labels, clean), present)
        self.robust_accuracy.update_state(hits(labels, robust), present)
        return {"clean": clean, "adversarial": robust}


@dataclasses.dataclass(eq=False)
class EvaluationStep:
    """A step of `evaluate`.

    Attributes:
        training: The training step, whose guard, objective, seed and switches
            it shares.
        student_metrics, teacher_metrics: What is measured of each.
        attack: What makes the adversarial images.
        with_teacher: Whether the teacher is evaluated, too.
    """

    training: TrainingStep
    student_metrics: NetworkMetrics
    teacher_metrics: NetworkMetrics
    attack: Attack
    with_teacher: bool = False

    def measure_teacher(self, with_teacher: bool) -> bool:
        """Sets, before a step is compiled, whether it measures the teacher."""
        self.with_teacher = with_teacher
        return with_teacher

    @property
    def _networks(self) -> list[NetworkMetrics]:
        both = [self.student_metrics, self.teacher_metrics]
        return both if self.with_teacher else both[:1]

    def run(
        self,
        data: Any,
        regularisers: Callable[[], list[Tensor]],
        compiled_metrics: keras.metrics.Metric | None,
    ) -> None:
        """Updates the metrics with one batch.

        Args:
            data: Images, labels and perhaps weights, as Keras hands them in.
            regularisers: Returns the losses that layers of the student
                have added in its last pass.
            compiled_metrics: The metrics given to `compile`, on clean images.
        """
        training = self.training
        x, labels, sample_weight, found = training.guard.checked(data)
        training.guard.faults.update_state(**found)
        # Images of weight 0 are padding: some pipelines fill a batch up.
        present = None if sample_weight is None else sample_weight > 0
        # Each pass over the same images has the same random starts.
        seen = backend.metric_sum(self.student_metrics.accuracy.count)
        seed = SampleSeed(training.seed, 0).substream(_EVALUATION_STREAM)
        seed = sample_seed(seed, x, ops.cast(seen, "int32"))
        for metrics in self._networks:
            logits = metrics.update(
                self.attack,
                x,
                labels,
                seed,
                present,
                training.switches.attribution,
                training.jit_attack,
            )
            if metrics is self.teacher_metrics:
                continue
            losses = losses_of(training.objective, labels, logits)
            if sample_weight is not None:
                losses = losses * sample_weight
            extra = regularisation(regularisers())
            training.loss.update_state(losses + extra, present)
            if compiled_metrics is not None:
                _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
                compiled_metrics.update_state(y, logits["clean"], sample_weight)

    def metrics(
        self, compiled_metrics: keras.metrics.Metric | None
    ) -> list[keras.metrics.Metric]:
        """What a step updates, in the order of the logs."""
        student, teacher = self.student_metrics, self.teacher_metrics
        found = [
            self.training.loss,
            *(student.accuracy, student.robust_accuracy),
        ]
        if compiled_metrics is not None:
            found.append(compiled_metrics)
        if self.with_teacher:
            found += [teacher.accuracy, teacher.robust_accuracy]
        if self.training.switches.attribution:
            found += [metrics.attribution for metrics in self._networks]
        return found

    def logs(
        self, compiled_metrics: keras.metrics.Metric | None
    ) -> dict[str, Tensor]:
        """The logs after a batch.

        CAS compares all classes with each other. Of many, that would take
        longer than the batch: it is NaN until the pass has ended.
        """
        logs: dict[str, Tensor] = {}
        for metric in self.metrics(compiled_metrics):
            is_cas = isinstance(metric, ClassAttributionSimilarity)
            if is_cas and metric.counts.shape[0] > MAX_CLASSES_FOR_CAS_IN_STEP:
                logs[metric.name] = ops.convert_to_tensor(np.nan, "float32")
                continue
            result = metric.result()
            named = isinstance(result, dict)
            logs.update(result if named else {metric.name: result})
        return logs

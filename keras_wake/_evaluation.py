"""What a `WakeModel` measures: its metrics and the step of `evaluate`."""

import functools
from typing import Any

import keras
from keras import ops

from keras_wake import backend
from keras_wake._student_teacher import StudentAndTeacher
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features
from keras_wake.attribution.metric import (
    ClassAttributionSimilarity as CasMetric,
)
from keras_wake.backend import keras_compat
from keras_wake.backend.numerics import hits
from keras_wake.data import fault_counts
from keras_wake.data import input_checks
from keras_wake.objectives.objective import losses_of
from keras_wake.utils import array_checks
from keras_wake.utils.seeds import CounterSeed

# Keeps the random numbers of evaluation apart from those of training.
_EVALUATION_STREAM = 0x5EED
MAX_CLASSES_FOR_CAS_IN_STEP = 200


class Evaluation(StudentAndTeacher):
    """Base of `WakeModel`: clean and robust accuracy, and attribution."""

    # Set by `WakeModel`.
    objective: Any
    seed: int

    def _add_metrics(self) -> None:
        # Not in `floatx`: half precision cannot count beyond 2048.
        mean = functools.partial(keras.metrics.Mean, dtype="float32")
        self._loss = mean(name="loss")
        self._accuracy = mean(name="accuracy")
        self._robust_accuracy = mean(name="robust_accuracy")
        self._kd_weight_mean = mean(name="kd_weight")
        self._teacher_accuracy = mean(name="teacher_accuracy")
        self._teacher_robust_accuracy = mean(name="teacher_robust_accuracy")
        if self.head is None:
            return
        sizes = (self.num_classes, head_features(self.head))
        self.attribution = CasMetric(*sizes, name="cas")
        self.teacher_attribution = CasMetric(*sizes, name="teacher_cas")

    def evaluate_batch(self, data: Any) -> None:
        """Updates the metrics of `evaluate` with one batch."""
        x, labels, sample_weight = self._checked(data)
        clean, robust, features = self._evaluate_network(
            self.classifier, self.head, x, labels
        )
        logits = {"clean": clean, "adversarial": robust}
        losses = losses_of(self.objective, labels, logits)
        if sample_weight is not None:
            losses = losses * sample_weight
        # An image of weight 0 is not there: some pipelines fill a batch up.
        present = None if sample_weight is None else sample_weight > 0
        self._loss.update_state(losses + self._regularisers(), present)
        self._accuracy.update_state(hits(labels, clean), present)
        self._robust_accuracy.update_state(hits(labels, robust), present)
        if keras_compat.compiled_metrics(self) is not None:
            _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            keras_compat.compiled_metrics(self).update_state(
                y, clean, sample_weight
            )
        if self._attribution_on:
            self.attribution.update_state(
                labels, features, head_weights(self.head), present
            )
        if not self._evaluates_teacher:
            return
        clean, robust, features = self._evaluate_network(
            self.teacher,
            self.teacher_head,
            x,
            labels,
        )
        self._teacher_accuracy.update_state(hits(labels, clean), present)
        self._teacher_robust_accuracy.update_state(
            hits(labels, robust), present
        )
        if self._attribution_on:
            self.teacher_attribution.update_state(
                labels, features, head_weights(self.teacher_head), present
            )

    def _evaluate_network(
        self, network: Any, head: Any, x: Any, labels: Any
    ) -> tuple[Any, Any, Any]:
        """Logits of clean and adversarial images, and features of these."""
        # The number of images seen in this pass, so that every pass over the
        # same images makes the same random starts.
        seed = CounterSeed(
            self.seed,
            ops.cast(self._accuracy.count, "int32"),
            _EVALUATION_STREAM + 7919 * backend.replica_index(),
        )
        clean = network(x, training=False)
        adversarial = self.eval_attack.perturb(network, x, labels, seed)
        if self._attribution_on:
            robust, features = logits_and_features(network, head, adversarial)
            return clean, robust, features
        return clean, network(adversarial, training=False), None

    def _checked(self, data: Any) -> tuple[Any, Any, Any]:
        """Images, labels (batch, K) and weights of a batch, faults counted.

        A fault is raised only when the step has ended. So that the weights
        of the network survive it, what is not finite is replaced.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        bounds = (self.attack or self.eval_attack).bounds
        x = input_checks.as_float_images(x, self._image_shape)
        labels = input_checks.one_hot_labels(y, self.num_classes)
        if sample_weight is not None:
            sample_weight = input_checks.as_float_weights(sample_weight)
        array_checks.check_lengths(
            images=x, labels=labels, sample_weights=sample_weight
        )
        # Python bools, except where TensorFlow leaves a shape open: then
        # tensors, and the faults are raised after the step.
        shape_is_right, shape = self._image_shape.check_in_step(x)
        x = fault_counts.value_or_zeros(shape_is_right, x, shape)
        count = shape[0]
        length_is_right = fault_counts.has_length(labels, count)
        labels = fault_counts.value_or_zeros(
            length_is_right, labels, (count, self.num_classes)
        )
        faults = fault_counts.count_faults(x, labels, bounds)
        x = ops.where(ops.isfinite(x), x, bounds[0])
        labels = ops.where(ops.isfinite(labels), labels, 0.0)
        bad_weights = ops.zeros((), "float32")
        lengths = [length_is_right]
        if sample_weight is not None:
            lengths.append(fault_counts.has_length(sample_weight, count))
            weights = fault_counts.value_or_zeros(
                lengths[-1], sample_weight, (count,)
            )
            good = ops.logical_and(ops.isfinite(weights), weights >= 0)
            sample_weight = ops.where(good, weights, 0.0)
            bad_weights = ops.sum(1 - ops.cast(good, "float32"))
        self.input_faults.update_state(
            faults, count, bad_weights, [shape_is_right], lengths
        )
        return x, labels, sample_weight

    def step_result(self) -> dict[str, Any]:
        """The metrics after a batch of `evaluate`.

        CAS compares all classes with each other. Of many, that would take
        longer than the batch: it is NaN until the pass has ended.
        """
        few = self.num_classes <= MAX_CLASSES_FOR_CAS_IN_STEP
        if few or not self._attribution_on:
            return self.get_metrics_result()
        waiting = [m for m in self.metrics if isinstance(m, CasMetric)]
        self._attribution_on = False
        try:
            logs = self.get_metrics_result()
        finally:
            self._attribution_on = True
        unknown = ops.convert_to_tensor(float("nan"), "float32")
        return {**logs, **{metric.name: unknown for metric in waiting}}

    @property
    def metrics(self) -> list[Any]:
        """The metrics of what is running: training or evaluation."""
        if self._phase == "train":
            trackers = {
                "clean": self._accuracy,
                "adversarial": self._robust_accuracy,
            }
            seen = [trackers[name] for name in self.objective.inputs]
            return [self._loss, *seen, self._kd_weight_mean, self.input_faults]
        metrics = [self._loss, self._accuracy, self._robust_accuracy]
        if self.compiled and keras_compat.compiled_metrics(self) is not None:
            metrics.append(keras_compat.compiled_metrics(self))
        if self._evaluates_teacher:
            metrics += [self._teacher_accuracy, self._teacher_robust_accuracy]
        if self._attribution_on:
            metrics.append(self.attribution)
            if self._evaluates_teacher:
                metrics.append(self.teacher_attribution)
        return [*metrics, self.input_faults]

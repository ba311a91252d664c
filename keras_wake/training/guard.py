"""The guard against wrong data, and against weights that became NaN.

`BatchGuard` counts faults within a compiled step, which cannot raise.
`InputGuard` raises for them after the step. `WakeModel.fit` and `evaluate`
put it before all other callbacks, so that no checkpoint is written after a
fault.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.checkpoint import snapshot
from keras_wake.data import arrays
from keras_wake.data import classifier as classifiers
from keras_wake.data import faults
from keras_wake.utils.types import Tensor


class BatchGuard:
    """Checks the batches of a step and counts what is wrong with them.

    Args:
        classifier: The student.
        num_classes: K.
        bounds: Smallest and largest pixel value.

    Attributes:
        counts: The metric that counts, over all replicas.
        image_shape: What the classifier takes.
    """

    def __init__(
        self,
        classifier: keras.Model,
        num_classes: int,
        bounds: tuple[float, float],
    ) -> None:
        self.counts = faults.InputFaults()
        self.image_shape = classifiers.image_shape(classifier)
        self._num_classes = num_classes
        self._bounds = bounds
        # Batch norm makes NaN of a replica's share without an image.
        self._needs_images = any(
            isinstance(layer, keras.layers.BatchNormalization)
            and not layer.synchronized
            for layer in keras_compat.flatten_layers(classifier)
        )

    def checked(self, data: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, labels (batch, K) and weights of a batch, faults counted.

        A fault is raised only when the step has ended. Values that are not
        finite are replaced, so that the weights of the network survive it.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = arrays.as_float_images(x, self.image_shape)
        labels = arrays.one_hot_labels(y, self._num_classes)
        if sample_weight is not None:
            sample_weight = arrays.as_float_weights(sample_weight)
        arrays.check_lengths(
            images=x, labels=labels, sample_weights=sample_weight
        )
        # Python bools, except where TensorFlow leaves a shape open: then
        # tensors, and the faults are raised after the step.
        shape_is_right, shape = self.image_shape.check_in_step(x)
        x = faults.value_or_zeros(shape_is_right, x, shape)
        count = shape[0]
        length_is_right = faults.has_length(labels, count)
        labels = faults.value_or_zeros(
            length_is_right, labels, (count, self._num_classes)
        )
        counted = faults.count_faults(x, labels, self._bounds)
        x = ops.where(ops.isfinite(x), x, self._bounds[0])
        labels = ops.where(ops.isfinite(labels), labels, 0.0)
        bad_weights = ops.zeros((), "float32")
        lengths = [length_is_right]
        if sample_weight is not None:
            lengths.append(faults.has_length(sample_weight, count))
            weights = faults.value_or_zeros(
                lengths[-1], sample_weight, (count,)
            )
            good = ops.logical_and(ops.isfinite(weights), weights >= 0)
            sample_weight = ops.where(good, weights, 0.0)
            bad_weights = ops.sum(1 - ops.cast(good, "float32"))
        wrong = [ops.cast(ops.logical_not(right), "int32") for right in lengths]
        self.counts.update_state(
            not_finite=counted[0],
            outside=counted[1],
            unnamed=counted[2],
            empty=ops.equal(count, 0),
            weights=bad_weights,
            shapes=ops.logical_not(shape_is_right),
            lengths=sum(wrong),
        )
        return x, labels, sample_weight

    def raise_for(
        self, values: np.ndarray, where: str, training: bool
    ) -> tuple[int, int]:
        """Raises for what was counted.

        Args:
            values: Of the variable of `counts`.
            where: Which images were looked at, for the message.
            training: Whether they were those of a training step.

        Returns:
            In how many of the steps the loss was not finite, and in how many
            the weights were not, after them: no faults of the images.

        Raises:
            ValueError: For images with NaN or outside the bounds and for
                labels that name no class.
        """
        counts = faults.FaultCounts(*map(int, values))
        needs_images = training and self._needs_images
        try:
            faults.raise_for_batches(counts, needs_images, where)
            faults.raise_for_values(
                counts[:3], self._bounds, self._num_classes, where
            )
        except ValueError:
            self.counts.reset_state()
            raise
        return counts.losses, counts.updates


class InputGuard(keras.callbacks.Callback):
    """Reads the model's count of faults after every batch.

    What is not finite has ruined the weights by the time it is seen, so the
    weights with which the epoch began are kept, and come back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._batches = 0
        self._good: list[np.ndarray] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Counts anew, also after a run that was broken off."""
        self.model.guard.counts.reset_state()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch, for the message, and the weights."""
        self._epoch = epoch
        self._batches = 0
        self._good = snapshot.take(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks a batch of training."""
        self._batches += 1
        step = f"epoch {self._epoch + 1}, batch {batch + 1}"
        try:
            losses, updates = self.model.raise_for_faults(f"of {step}")
        except ValueError:
            # The step that counted the faults has used the batch as well.
            snapshot.put_back(self.model, self._good)
            raise
        if losses:
            self._go_back(f"The loss became NaN or infinite in {step}.")
        if updates:
            self._go_back(
                f"The loss is finite, but the update has made weights NaN or "
                f"infinite in {step}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Refuses an epoch without a batch."""
        self._refuse_empty("training")

    def on_train_end(self, logs: Any = None) -> None:
        """Frees the memory."""
        self._good = []

    def on_test_begin(self, logs: Any = None) -> None:
        """Counts anew."""
        self.model.guard.counts.reset_state()
        self._trained_batches, self._batches = self._batches, 0

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks a batch of evaluation."""
        self._batches += 1
        self.model.raise_for_faults(f"of evaluation batch {batch + 1}")

    def on_test_end(self, logs: Any = None) -> None:
        """Refuses an evaluation without a batch."""
        self._refuse_empty("evaluation")
        self._batches = self._trained_batches

    def _refuse_empty(self, phase: str) -> None:
        if not self._batches:
            raise ValueError(
                f"The {phase} data set is empty: it yielded no batch. (A "
                "generator gives its batches only once.)"
            )

    def _go_back(self, what: str) -> None:
        """Restores the last good weights and raises."""
        snapshot.put_back(self.model, self._good)
        self.model.guard.counts.reset_state()
        message = (
            f"{what} Student, teacher and optimizer are back to what they "
            f"were when epoch {self._epoch + 1} began. "
        )
        if not _all_finite(self.model.trainable_variables):
            raise FloatingPointError(
                f"{message}Even then weights were not finite: give the "
                "classifier other ones."
            )
        rate = float(backend.to_numpy(self.model.optimizer.learning_rate))
        raise FloatingPointError(
            f"{message}Likely causes, the first one first: a learning rate "
            f"that is too high (it is {rate:g}; try a tenth of it, a warm-up, "
            "or `clipnorm=` in the optimizer); numbers beyond the range of "
            "half precision (keep the optimizer's loss scaling, and the last "
            "layer in float32); an objective, layer or optimizer of your own "
            "that divides by 0 or takes the logarithm of 0."
        )


def _all_finite(variables: list[Any]) -> bool:
    return all(np.isfinite(backend.to_numpy(v)).all() for v in variables)

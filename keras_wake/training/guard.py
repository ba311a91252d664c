"""What refuses wrong data, and weights that became NaN.

A compiled step cannot raise. So `BatchGuard` counts the faults in it, and the
callback `InputGuard` reads the counts and raises. `WakeModel.fit` and
`evaluate` put it before all other callbacks, so that no checkpoint is written
after a fault.
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
        self.num_classes = num_classes
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
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        x = arrays.as_float_images(x, self.image_shape)
        labels = arrays.one_hot_labels(y, self.num_classes)
        if weights is not None:
            weights = arrays.as_float_weights(weights)
        arrays.check_lengths(images=x, labels=labels, sample_weights=weights)
        # Python bools, except where TensorFlow leaves a shape open: then
        # tensors, and the faults are raised after the step.
        shape_is_right, shape = self.image_shape.check_in_step(x)
        x = faults.value_or_zeros(shape_is_right, x, shape)
        size = (shape[0],)
        lengths_are_right = [faults.has_length(labels, *size)]
        labels = faults.value_or_zeros(
            lengths_are_right[0], labels, (*size, self.num_classes)
        )
        bad_weights = 0.0
        if weights is not None:
            lengths_are_right.append(faults.has_length(weights, *size))
            weights = faults.value_or_zeros(lengths_are_right[1], weights, size)
            good = ops.logical_and(ops.isfinite(weights), weights >= 0)
            weights = ops.where(good, weights, 0.0)
            bad_weights = ops.sum(1 - ops.cast(good, "float32"))
        not_finite, outside, bad_labels = ops.unstack(
            faults.count_faults(x, labels, self._bounds)
        )
        self.counts.update_state(
            not_finite=not_finite,
            outside=outside,
            bad_labels=bad_labels,
            empty=ops.equal(shape[0], 0),
            bad_weights=bad_weights,
            bad_shapes=ops.logical_not(shape_is_right),
            bad_lengths=sum(
                1 - ops.cast(right, "int32") for right in lengths_are_right
            ),
        )
        x = ops.where(ops.isfinite(x), x, self._bounds[0])
        return x, ops.where(ops.isfinite(labels), labels, 0.0), weights

    def raise_for_faults(
        self, values: np.ndarray, where: str, training: bool
    ) -> faults.FaultCounts:
        """Raises for faults of the data.

        Args:
            values: Of the variable of `counts`.
            where: Which images were looked at, for the message.
            training: Whether they were those of a training step.

        Returns:
            What was counted, losses and weights that are not finite as well.

        Raises:
            ValueError: For images with NaN or outside the bounds and for
                labels that name no class.
        """
        counts = faults.FaultCounts(*map(int, values))
        needs_images = training and self._needs_images
        faults.raise_for_faults(
            counts, self._bounds, self.num_classes, where, needs_images
        )
        return counts


class InputGuard(keras.callbacks.Callback):
    """Reads the model's count of faults after every batch.

    A NaN is seen only after it has spoilt the weights. So those with which the
    epoch began are kept, and put back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._batches = 0
        # Those of training, while an evaluation counts its own.
        self._trained_batches = 0
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
            counts = self.model.raise_for_faults(f"of {step}")
        except ValueError:
            # The step that counted the faults has used the batch as well.
            snapshot.put_back(self.model, self._good)
            raise
        if counts.bad_losses:
            self._go_back(f"The loss became NaN or infinite in {step}.")
        if counts.bad_updates:
            self._go_back(
                f"The loss is finite, but the update has made weights NaN or "
                f"infinite in {step}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Refuses an epoch without a batch."""
        self._refuse_empty("training")

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
        message = (
            f"{what} Student, teacher and optimizer are back to what they "
            f"were when epoch {self._epoch + 1} began. "
        )
        weights = map(backend.to_numpy, self.model.trainable_variables)
        if not all(np.isfinite(values).all() for values in weights):
            raise FloatingPointError(
                f"{message}Even then weights were not finite: make the "
                "classifier again."
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

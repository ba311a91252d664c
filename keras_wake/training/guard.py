"""What refuses wrong data, and weights that became NaN.

A compiled step cannot raise. So `BatchGuard` counts the faults in it, and
`InputGuard` reads the counts and raises. A read waits for the device, so there
is one after the first batch, then one every `check_every` steps, one at the end
of each pass, and one before `WakeModel` writes a file.
"""

import dataclasses
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
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor


class BatchGuard:
    """Checks the batches of a step and counts what is wrong with them.

    Args:
        classifier: The student.
        num_classes: K.
        bounds: Smallest and largest pixel value.

    Attributes:
        faults: The metric that counts, over all replicas.
        image_shape: What the classifier takes.
    """

    def __init__(
        self,
        classifier: keras.Model,
        num_classes: int,
        bounds: tuple[float, float],
    ) -> None:
        self.faults = faults.InputFaults()
        self.image_shape = classifiers.image_shape(classifier)
        self.num_classes = num_classes
        self._bounds = bounds
        # Batch norm makes NaN of a replica's share without an image.
        self._needs_images = any(
            isinstance(layer, keras.layers.BatchNormalization)
            and not layer.synchronized
            for layer in keras_compat.flatten_layers(classifier)
        )

    def checked(
        self, data: Any
    ) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
        """Images, labels (batch, K) and weights of a batch, and its faults.

        The faults are for `faults.update_state` at the end of the step. Values
        that are not finite are replaced, so that the weights of the network
        survive them.
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
        found = {
            "not_finite": not_finite,
            "outside": outside,
            "bad_labels": bad_labels,
            "empty": ops.equal(shape[0], 0),
            "bad_weights": bad_weights,
            "bad_shapes": ops.logical_not(shape_is_right),
            "bad_lengths": sum(
                1 - ops.cast(right, "int32") for right in lengths_are_right
            ),
        }
        x = ops.where(ops.isfinite(x), x, self._bounds[0])
        labels = ops.where(ops.isfinite(labels), labels, 0.0)
        return x, labels, weights, found

    def raise_for_faults(
        self, counts: faults.FaultCounts, where: str, training: bool
    ) -> None:
        """Raises for faults of the data.

        Args:
            counts: Of one batch.
            where: Which images were looked at, for the message.
            training: Whether they were those of a training step.

        Raises:
            ValueError: For images with NaN or outside the bounds and for
                labels that name no class.
        """
        needs_images = training and self._needs_images
        faults.raise_for_faults(
            counts, self._bounds, self.num_classes, where, needs_images
        )


@dataclasses.dataclass
class _Pass:
    """A pass over the data: how many steps it has run, and when to read."""

    read_at: int
    steps: int = 0
    steps_read: int = 0


class InputGuard(keras.callbacks.Callback):
    """Raises for the faults that the steps have counted.

    A NaN is seen only after it has spoilt the weights. So those with which the
    epoch began are kept, and put back.

    It has no hook for batches: with one, Keras would wait for each batch. The
    backend's `Trainer` calls `after_step` behind each compiled step instead.

    Args:
        model: The `WakeModel`.
        check_every: After how many steps the counts are read again.
        keep_recovery_copy: Whether to keep the weights of the epoch's begin.
    """

    def __init__(
        self, model: keras.Model, check_every: int, keep_recovery_copy: bool
    ) -> None:
        super().__init__()
        # Not `self.model`, for which Keras brings the state of JAX back.
        self._wake_model = model
        self.check_every = validate.integer(1, check_every=check_every)
        self.keep_recovery_copy = validate.boolean(
            keep_recovery_copy=keep_recovery_copy
        )
        self._epoch = 0
        # One of training goes on while a callback evaluates.
        self._passes: dict[str, _Pass] = {}
        self._next_read = 1
        self._good: list[Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Has the first batch of this `fit` checked at once."""
        self._next_read = 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch, for the message, and the weights."""
        self._epoch = epoch
        self._wake_model.start_pass()
        self._good = None  # Frees the memory that the next copy takes.
        if self.keep_recovery_copy:
            with backend.memory_error_says(
                "the copy of all weights that an epoch begins with",
                "`WakeModel(keep_recovery_copy=False)` does without it.",
            ):
                self._good = snapshot.copy(self._wake_model)
        self._passes["train"] = _Pass(self._next_read)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Checks the last steps, and refuses an epoch without a batch."""
        self.check("train")
        self._end_pass("train", "training")

    def on_test_begin(self, logs: Any = None) -> None:
        """Has the first batch checked at once."""
        self._passes["test"] = _Pass(1)

    def on_test_end(self, logs: Any = None) -> None:
        """Checks the last steps, and refuses an evaluation without a batch."""
        self.check("test")
        self._end_pass("test", "evaluation")

    def _end_pass(self, phase: str, name: str) -> None:
        if not self._passes.pop(phase).steps:
            raise ValueError(
                f"The {name} data set is empty: it yielded no batch. (A "
                "generator gives its batches only once.)"
            )

    def forget(self, phase: str) -> None:
        """Ends a pass that was broken off."""
        self._passes.pop(phase, None)

    def after_step(self, phase: str) -> None:
        """Checks, if it is time to, after a call of a compiled step."""
        running = self._passes.get(phase)
        if running is not None:  # None for `train_on_batch`.
            running.steps += self._wake_model.steps_per_execution
            if running.steps >= running.read_at:
                self.check(phase)

    def check(self, phase: str) -> None:
        """Raises for the first fault of a pass, if there is one.

        Raises:
            ValueError: For faults of the data.
            FloatingPointError: If the loss or the weights became NaN or
                infinite.
        """
        running = self._passes.get(phase)
        if running is None or running.steps == running.steps_read:
            return
        first = self._first_fault()
        running.steps_read = running.steps
        running.read_at = running.steps + self.check_every
        if phase == "test":
            where = f"of evaluation batch {first.batch}"
            self._wake_model.guard.raise_for_faults(first.counts, where, False)
            return
        self._next_read = self.check_every
        step = f"epoch {self._epoch + 1}, batch {first.batch}"
        try:
            self._wake_model.guard.raise_for_faults(
                first.counts, f"of {step}", training=True
            )
        except ValueError as error:
            # The steps since have used the batch as well.
            raise ValueError(f"{error} {self._go_back()}") from None
        if first.counts.bad_losses:
            self._raise_for_weights(
                f"The loss became NaN or infinite in {step}."
            )
        if first.counts.bad_updates:
            self._raise_for_weights(
                "The loss is finite, but the update has made weights NaN or "
                f"infinite in {step}."
            )

    def check_batch(self, training: bool) -> None:
        """Raises for the faults of a batch that was given by itself."""
        counts = self._first_fault().counts
        self._wake_model.guard.raise_for_faults(
            counts, "of this batch", training
        )

    def _first_fault(self) -> faults.FirstFault:
        (values,) = self._wake_model.metric_values(
            self._wake_model.guard.faults
        )
        return faults.FirstFault.from_values(values)

    def _go_back(self) -> str:
        """Restores the weights of the epoch's begin, and says so."""
        if self._good is None:
            return (
                "The weights are spoilt: with `keep_recovery_copy=False` none "
                "were kept. Go on from a checkpoint or a backup."
            )
        snapshot.put_back(self._wake_model, self._good)
        return (
            "Student, teacher and optimizer are back to what they were when "
            f"epoch {self._epoch + 1} began."
        )

    def _raise_for_weights(self, what: str) -> None:
        """Restores the last good weights and raises."""
        message = f"{what} {self._go_back()} "
        weights = map(backend.to_numpy, self._wake_model.trainable_variables)
        if self._good is not None and not all(
            np.isfinite(values).all() for values in weights
        ):
            raise FloatingPointError(
                f"{message}Even then weights were not finite: make the "
                "classifier again."
            )
        rate = float(backend.to_numpy(self._wake_model.optimizer.learning_rate))
        raise FloatingPointError(
            f"{message}Likely causes, the first one first: a learning rate "
            f"that is too high (it is {rate:g}; try a tenth of it, a warm-up, "
            "or `clipnorm=` in the optimizer); numbers beyond the range of "
            "half precision (keep the optimizer's loss scaling, and the last "
            "layer in float32); an objective, layer or optimizer of your own "
            "that divides by 0 or takes the logarithm of 0."
        )

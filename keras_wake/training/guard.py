"""The callback that raises for wrong data, and for weights that became NaN.

A compiled step cannot raise: `training.step.BatchGuard` counts the faults in
it. `WakeModel.fit` and `evaluate` put an `InputGuard` before all other
callbacks, so that no checkpoint is written after a fault.
"""

from typing import Any

import keras
import numpy as np

from keras_wake import backend
from keras_wake.checkpoint import snapshot


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

"""Raises as soon as a batch held something that cannot be right.

The compiled step counts the faults; `WakeModel.fit` and `evaluate` put this
callback before all others, so that no checkpoint is written after a fault.
"""

from typing import Any

import keras


class InputGuard(keras.callbacks.Callback):
    """Reads the model's count of faults after every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._batches = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Counts anew, also after a run that was broken off."""
        self.model.forget_faults()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch, for the message."""
        self._epoch = epoch
        self._batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks a batch of training."""
        self._batches += 1
        self.model.raise_for_faults(
            f"of epoch {self._epoch + 1}, batch {batch + 1}"
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Refuses an epoch without a batch."""
        self._refuse_empty("training")

    def on_test_begin(self, logs: Any = None) -> None:
        """Counts anew."""
        self.model.forget_faults()
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
                f"The {phase} data set is empty: it yielded no batch."
            )

"""Callbacks that write files, kept from ending a run when they cannot.

A full disk or a share that has gone is no reason to lose an epoch: a log or a
checkpoint that cannot be written is a warning, and the next one is tried.
"""

import warnings
from typing import Any

import keras

WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


class TolerantWriter(keras.callbacks.Callback):
    """Calls a callback of Keras that writes files; an `OSError` is a warning.

    Where training begins it is an error still: a path that is wrong should be
    known at once.

    Args:
        writer: One of `WRITERS`.
    """

    def __init__(self, writer: keras.callbacks.Callback) -> None:
        super().__init__()
        self.writer = writer

    def set_params(self, params: Any) -> None:
        """Hands them on."""
        super().set_params(params)
        self.writer.set_params(params)

    def set_model(self, model: Any) -> None:
        """Hands it on."""
        super().set_model(model)
        self.writer.set_model(model)

    def _attempt(self, hook: str, *args: Any) -> None:
        # A checkpoint takes the value for its best before it writes.
        best = getattr(self.writer, "best", None)
        try:
            getattr(self.writer, hook)(*args)
        except OSError as error:
            if best is not None:
                self.writer.best = best
            warnings.warn(
                f"`{type(self.writer).__name__}` could not write: {error}. "
                "Files that were complete stay as they are. Training goes on, "
                "and the next time is tried again.",
                stacklevel=3,
            )

    def on_train_begin(self, logs: Any = None) -> None:
        """Calls the writer; errors are errors."""
        self.writer.on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_test_begin", logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_test_end", logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls the writer."""
        self._attempt("on_test_batch_end", batch, logs)


def check_ending(callback: Any) -> None:
    """Refuses a checkpoint that `WakeModel.save` would refuse an epoch later.

    Raises:
        ValueError: If its file does not end in `.keras`.
    """
    if (
        isinstance(callback, keras.callbacks.ModelCheckpoint)
        and not callback.save_weights_only
        and not str(callback.filepath).endswith(".keras")
    ):
        raise ValueError(
            "The file of a `ModelCheckpoint` must end in `.keras`, or with "
            "`save_weights_only=True` in `.weights.h5`. Received: "
            f"filepath={str(callback.filepath)!r}."
        )


def tolerant(callbacks: list[Any]) -> list[Any]:
    """The callbacks, those that write files in a `TolerantWriter`."""
    return [
        TolerantWriter(c) if isinstance(c, WRITERS) else c for c in callbacks
    ]


def without_wrapper(callback: Any) -> Any:
    """The callback that the user has given."""
    if isinstance(callback, TolerantWriter):
        return callback.writer
    return callback

"""Keeps training going when a callback of Keras cannot write its file.

A full disk or a lost network share is no reason to lose an epoch. A log or a
checkpoint that cannot be written gives a warning, and the next one is tried.
"""

import warnings
from collections.abc import Callable

import keras
from keras.callbacks import Callback

from keras_wake.utils.types import Config

WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


def _tolerant(hook: str) -> Callable:
    """A method that calls the same one of the writer, and warns of failures."""

    def call(self: "TolerantWriter", *args: object, **logs: object) -> None:
        writer = self.writer
        # A checkpoint changes its best value before it writes.
        best = getattr(writer, "best", None)
        try:
            getattr(writer, hook)(*args, **logs)
        except OSError as error:
            if best is not None:
                writer.best = best
            warnings.warn(
                f"`{type(writer).__name__}` could not write: {error}. Files "
                "that were complete stay as they are. Training goes on, and "
                "the next time is tried again.",
                stacklevel=2,
            )

    return call


class TolerantWriter(Callback):
    """Calls a callback of Keras that writes files; an `OSError` is a warning.

    Where training begins it is an error still: a path that is wrong should be
    known at once.

    Args:
        writer: One of `WRITERS`.
    """

    def __init__(self, writer: Callback) -> None:
        super().__init__()
        self.writer = writer

    def set_params(self, params: Config) -> None:
        """Hands them on."""
        super().set_params(params)
        self.writer.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Hands it on."""
        super().set_model(model)
        self.writer.set_model(model)

    def on_train_begin(self, logs: Config | None = None) -> None:
        """Calls the writer; errors are errors."""
        self.writer.on_train_begin(logs)

    on_train_end = _tolerant("on_train_end")
    on_epoch_begin = _tolerant("on_epoch_begin")
    on_epoch_end = _tolerant("on_epoch_end")
    on_train_batch_begin = _tolerant("on_train_batch_begin")
    on_train_batch_end = _tolerant("on_train_batch_end")
    on_test_begin = _tolerant("on_test_begin")
    on_test_end = _tolerant("on_test_end")
    on_test_batch_begin = _tolerant("on_test_batch_begin")
    on_test_batch_end = _tolerant("on_test_batch_end")


def check_ending(callback: Callback) -> None:
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


def without_wrapper(callback: Callback) -> Callback:
    """The callback that the user has given."""
    return callback.writer if isinstance(callback, TolerantWriter) else callback

"""The callbacks of a `fit`: checked, completed, and in their order."""

from typing import Any

import keras

from keras_wake.backend import keras_compat
from keras_wake.checkpoint import callback_states
from keras_wake.training import writers
from keras_wake.training.guard import InputGuard


def prepare(callbacks: Any, model: Any) -> Any:
    """Checks callbacks, adds those that are needed, and puts them in order.

    The check of input values comes before all others, and backups come last.
    """
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = callbacks.callbacks if is_list else callbacks
    listed = keras.tree.flatten(given or [])
    _check(listed)
    backups = [c for c in listed if _runs_last(c)]
    if len(backups) > 1:
        folders = [str(backup.backup_dir) for backup in backups]
        raise ValueError(
            "A `fit` takes one `BackupAndRestore`. Received: "
            f"{len(backups)}, with the folders {folders}. Pass one of them."
        )
    for callback in listed:
        _set_direction(callback)
        writers.check_ending(callback)
    if is_list:
        # Made before `fit`, which has since switched everything off.
        callbacks.set_model(model)
        if not any(isinstance(c, InputGuard) for c in callbacks.callbacks):
            guard = InputGuard()
            guard.set_model(model)
            callbacks.callbacks.insert(0, guard)
            # It decided without the guard that batches may end in a thread.
            keras_compat.configure_async_dispatch(callbacks)
        callbacks.callbacks = _backups_last(
            _of_process(callbacks.callbacks, model)
        )
        return callbacks
    return [InputGuard(), *_backups_last(_of_process(listed, model))]


def unwrapped(prepared: Any) -> tuple[Any, ...]:
    """The callbacks of `prepare` without wrappers."""
    callbacks = getattr(prepared, "callbacks", prepared)
    return tuple(map(writers.without_wrapper, callbacks))


def _check(callbacks: list[Any]) -> None:
    """Refuses a callback that is listed twice, and Keras's own backup."""
    for number, callback in enumerate(callbacks):
        callback = writers.without_wrapper(callback)
        if any(
            callback is writers.without_wrapper(other)
            for other in callbacks[:number]
        ):
            given = callback_states.arguments_of(callback).items()
            text = ", ".join(f"{name}={value!r}" for name, value in given)
            raise ValueError(
                f"The same `{type(callback).__name__}` is twice among the "
                "callbacks, and would be called twice. Pass it once. "
                f"Received: {text or callback!r}."
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise TypeError(
                "`keras.callbacks.BackupAndRestore` does not restore the "
                "random states, the history and the other callbacks of a "
                "`WakeModel`. Use `keras_wake.BackupAndRestore(backup_dir)`."
            )


def _of_process(callbacks: list[Any], model: Any) -> list[Any]:
    """The callbacks without those that only the chief of several needs.

    Workers that write the same file at the same time would spoil it.
    """
    if model.is_chief:
        return writers.tolerant(callbacks)
    return [c for c in callbacks if not isinstance(c, writers.WRITERS)]


def _backups_last(callbacks: list[Any]) -> list[Any]:
    """Callbacks with `History` and the backups, if there are any, at the end.

    Keras adds its `History` at the very end, where a backup would miss it.
    """
    backups = [c for c in callbacks if _runs_last(c)]
    if not backups:
        return callbacks
    history = [c for c in callbacks if isinstance(c, keras.callbacks.History)]
    others = [c for c in callbacks if c not in (*history, *backups)]
    return [*others, *(history or [keras.callbacks.History()]), *backups]


def _runs_last(callback: Any) -> bool:
    return getattr(callback, "runs_last", False)


def _set_direction(callback: Any) -> None:
    """Tells a callback that accuracy and CAS are better when they are higher.

    For Keras, `mode="auto"` is an error unless the metric is one of those
    given to `compile`.
    """
    monitor = getattr(callback, "monitor", None)
    higher = isinstance(monitor, str) and monitor.endswith(("accuracy", "cas"))
    if higher and getattr(callback, "mode", None) == "auto":
        callback.mode = "max"

"""The callbacks of a `fit`: checked, completed, and in their order.

A callback tells with attributes of its class where it belongs: `runs_last`
comes after all others, `chief_only` runs on the chief of several workers.
"""

import keras
from keras.callbacks import Callback
from keras.callbacks import CallbackList
from keras.callbacks import History

from keras_wake.backend import keras_compat
from keras_wake.checkpoint import callback_states
from keras_wake.training import writers
from keras_wake.training.guard import InputGuard


def prepare(
    callbacks: CallbackList | list | Callback | None, model: keras.Model
) -> CallbackList | list[Callback]:
    """Checks callbacks, adds an `InputGuard`, and puts them in order.

    The guard checks the input values. It runs before all other callbacks.
    """
    if not isinstance(callbacks, CallbackList):
        listed = keras.tree.flatten(callbacks or [])
        _check(listed)
        return [InputGuard(), *_in_order(listed, model)]
    _check(callbacks.callbacks)
    # When the list was made, its callbacks may have switched something on. But
    # `fit` has switched everything off since, so they do it again.
    callbacks.set_model(model)
    if not any(isinstance(c, InputGuard) for c in callbacks.callbacks):
        guard = InputGuard()
        guard.set_model(model)
        callbacks.callbacks.insert(0, guard)
        # When the list was made, it had no guard, and may have decided to call
        # the batch hooks in another thread. The guard does not allow that.
        keras_compat.configure_async_dispatch(callbacks)
    callbacks.callbacks = _in_order(callbacks.callbacks, model)
    return callbacks


def unwrapped(prepared: CallbackList | list[Callback]) -> tuple[Callback, ...]:
    """The callbacks of `prepare` without wrappers."""
    callbacks = getattr(prepared, "callbacks", prepared)
    return tuple(map(writers.without_wrapper, callbacks))


def _check(callbacks: list[Callback]) -> None:
    """Refuses what would fail later, and sets the direction of metrics."""
    callbacks = [writers.without_wrapper(callback) for callback in callbacks]
    for number, callback in enumerate(callbacks):
        name = type(callback).__name__
        if any(callback is other for other in callbacks[:number]):
            given = callback_states.arguments_of(callback).items()
            text = ", ".join(f"{name}={value!r}" for name, value in given)
            raise ValueError(
                f"The same `{name}` is twice among the callbacks, and would "
                "be called twice. Pass it once. "
                f"Received: {text or callback!r}."
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise TypeError(
                "`keras.callbacks.BackupAndRestore` does not restore the "
                "random states, the history and the other callbacks of a "
                "`WakeModel`. Use `keras_wake.BackupAndRestore(backup_dir)`."
            )
        writers.check_ending(callback)
        # With "auto", Keras refuses metrics that `compile` was not given.
        monitor = getattr(callback, "monitor", None)
        higher = ("accuracy", "cas")
        if isinstance(monitor, str) and monitor.endswith(higher):
            if getattr(callback, "mode", None) == "auto":
                callback.mode = "max"


def _in_order(callbacks: list[Callback], model: keras.Model) -> list[Callback]:
    """The callbacks of this process, in the order in which they run."""
    callbacks = [
        writers.TolerantWriter(callback)
        if isinstance(callback, writers.WRITERS)
        else callback
        for callback in callbacks
        # Workers that write the same file at the same time would spoil it.
        if model.is_chief
        or not (
            isinstance(callback, writers.WRITERS)
            or getattr(callback, "chief_only", False)
        )
    ]
    last = [c for c in callbacks if getattr(c, "runs_last", False)]
    if not last:
        return callbacks
    # Keras adds its `History` at the very end, after those that run last.
    history = [c for c in callbacks if isinstance(c, History)]
    first = [c for c in callbacks if c not in last and c not in history]
    return [*first, *(history or [History()]), *last]

"""What the files of a model need beyond what Keras does.

They are written whole or not at all, and hold the random states, of dropout
say.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_wake import backend
from keras_wake.checkpoint.files import atomic_write


@contextlib.contextmanager
def atomic_file(filepath: Any, ending: str, overwrite: bool) -> Iterator[Any]:
    """Gives Keras another name to write to, and moves the file into place.

    Args:
        filepath: What the user passed: a local path, or a URL.
        ending: What the name of a file must end in, such as `".keras"`. Keras
            would begin to write some others, and fail.
        overwrite: Whether a file may be replaced without asking the user.

    Yields:
        The path to hand to Keras.
    """
    aside: contextlib.AbstractContextManager = contextlib.nullcontext(filepath)
    if isinstance(filepath, (str, os.PathLike)):
        name = os.fspath(filepath)
        if not name.endswith(ending) and not name.startswith("hf://"):
            raise ValueError(
                f"The name of the file must end in `{ending}`. Received: "
                f"{name!r}. For the network alone, in another format, save "
                "`model.robust_classifier`."
            )
        if "://" not in name and (overwrite or not os.path.exists(name)):
            aside = atomic_write(name)
    with aside as path, backend.saving_in_one_process():
        yield path


def save_random_states(model: keras.Model, store: Any) -> None:
    """Adds the random states to what `save_own_variables` has stored."""
    for name, variable in _states(model).items():
        store[name] = backend.to_numpy(variable)


def load_random_states(model: keras.Model, store: Any) -> dict[str, Any]:
    """Loads the random states; returns the rest of the store, for Keras."""
    states = _states(model)
    for name, variable in states.items():
        if name in store.keys():
            variable.assign(store[name])
    return {key: store[key] for key in store.keys() if key not in states}


def _states(model: keras.Model) -> dict[str, keras.Variable]:
    weights = {id(weight) for weight in model.weights}
    states = [v for v in model.variables if id(v) not in weights]
    return {f"random_state_{n}": v for n, v in enumerate(states)}

"""The arrays of a PyTorch checkpoint, without what scripts wrap around them."""

import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_wake.utils.types import Array

# Where training scripts put the state dict, beside the number of the epoch.
NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")
# Prefixes of DataParallel, of wrappers that normalise, and of torch.compile.
PREFIXES = ("module.", "model.", "_orig_mod.")
# The prefix of `Sequential(normalise, network)`, as in "1.conv1.weight".
NUMBER = re.compile(r"\d+\.")
# The pixels' mean and deviation, of the network or a wrapper that normalises.
NORMALISER = re.compile(r"(?:\w+\.)?(mean|std|mu|sigma)")
NORMALISER_NAMES = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
# Saved by published code and not used: a group of TRADES's network, and a
# second name for the first layers of Andriushchenko and Flammarion (2020).
UNUSED = ("sub_block1.", "model_preact_hl1.")
# Colours, for terminals.
ANSI_CODES = re.compile(r"\x1b\[[0-9;]*m")


def state_dict(
    checkpoint: Any,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of a checkpoint by key, without wrappers and counters.

    Returns:
        The arrays; and the mean and std of a wrapper that normalises, if
        there is one.
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = _read(checkpoint)
    if not isinstance(checkpoint, Mapping):
        raise TypeError(
            "`checkpoint` must be the path of a PyTorch file or a state dict "
            "(`module.state_dict()`, or a dictionary of NumPy arrays). "
            f"Received: an object of type {type(checkpoint).__name__}."
        )
    state = checkpoint
    while inner := [
        state[name]
        for name in NESTED_UNDER
        if isinstance(state.get(name), Mapping)
    ]:
        state = inner[0]
    _check_is_one(state)
    state = {str(key): value for key, value in state.items()}
    normaliser = _take_normaliser(state)
    while prefix := _common_prefix(state):
        state = {key.removeprefix(prefix): state[key] for key in state}
        normaliser |= _take_normaliser(state)
    arrays = {
        key.replace(".shortcut.0.", ".shortcut."): to_numpy(value)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
        and not key.startswith(UNUSED)
    }
    return arrays, normaliser


def _check_is_one(state: Mapping[str, object]) -> None:
    """Refuses a dictionary of several state dicts."""
    inner = [key for key in state if isinstance(state[key], Mapping)]
    if inner and len(inner) == len(state):
        raise ValueError(
            "The checkpoint holds several state dicts, under "
            f"{', '.join(repr(key) for key in inner)}. Choose one: "
            "`load_pytorch_weights(model, torch.load(path)[name])`."
        )


def _common_prefix(state: Mapping[str, object]) -> str:
    """The wrapper's prefix that all keys have, or an empty string."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return prefix
    number = NUMBER.match(next(iter(state), ""))
    if number and all(key.startswith(number[0]) for key in state):
        return number[0]
    return ""


def _take_normaliser(state: dict[str, Any]) -> dict[str, Array]:
    """Removes the mean and std of a wrapper, and returns them."""
    matches = {key: NORMALISER.fullmatch(key) for key in state}
    return {
        NORMALISER_NAMES[match[1]]: to_numpy(state.pop(key)).ravel()
        for key, match in matches.items()
        if match
    }


def _read(path: str | os.PathLike) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch reads its files. Install it with "
            "`pip install keras-wake[torch]`, or pass the state dict as a "
            "dictionary of NumPy arrays."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The file {os.fspath(path)!r} is not a PyTorch file of tensors "
            "and plain Python values only. If you trust where it comes from, "
            "load it with `torch.load(path, weights_only=False)` and pass the "
            f"state dict. PyTorch says: {_first_line(error)}"
        ) from error
    except Exception as error:
        # PyTorch raises many kinds of errors for damaged files.
        raise ValueError(
            f"The file {os.fspath(path)!r} could not be read: it is damaged, "
            "empty or not made by `torch.save`. Download or save it again. "
            f"PyTorch says: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return ANSI_CODES.sub("", str(error).partition("\n")[0])


def to_numpy(value: Any) -> Array:
    """A PyTorch tensor, or anything like an array, as a NumPy array."""
    if hasattr(value, "detach"):  # A PyTorch tensor, without importing torch.
        # NumPy has no bfloat16.
        value = value.detach().cpu().float()
    return np.asarray(value)

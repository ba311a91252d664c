"""The arrays of a PyTorch checkpoint, without what scripts wrap around them."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_wake.utils.types import Array

# Where training scripts put the state dict, beside the number of the epoch.
NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")
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
    if state and all(isinstance(value, Mapping) for value in state.values()):
        raise ValueError(
            "The checkpoint holds several state dicts, under "
            f"{', '.join(repr(key) for key in state)}. Choose one: "
            "`load_pytorch_weights(model, torch.load(path)[name])`."
        )
    state = {str(key): value for key, value in state.items()}
    normaliser = _take_normaliser(state)
    while _is_wrapped(state):
        state = {key.partition(".")[2]: state[key] for key in state}
        normaliser |= _take_normaliser(state)
    arrays = {
        key.replace(".shortcut.0.", ".shortcut."): to_numpy(value)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
        and not key.startswith(UNUSED)
    }
    return arrays, normaliser


def _is_wrapped(state: Mapping[str, object]) -> bool:
    """Whether one module, such as `module.`, is around all layers."""
    return (
        len({key.partition(".")[0] for key in state}) == 1
        # A key names at least a layer and its weight.
        and all(key.count(".") > 1 for key in state)
    )


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
    except Exception as error:  # Of many kinds, for damaged files.
        first_line = ANSI_CODES.sub("", str(error).partition("\n")[0])
        raise ValueError(
            f"The file {os.fspath(path)!r} could not be read. It is damaged or "
            "not made by `torch.save`: download or save it again. Or it holds "
            "more than tensors and plain Python values: if you trust where it "
            "comes from, load it with `torch.load(path, weights_only=False)` "
            "and pass the state dict. PyTorch says: "
            f"{type(error).__name__}: {first_line}"
        ) from error


def to_numpy(value: Any) -> Array:
    """A PyTorch tensor, or anything like an array, as a NumPy array."""
    if hasattr(value, "detach"):  # A PyTorch tensor, without importing torch.
        # NumPy has no bfloat16.
        value = value.detach().cpu().float()
    return np.asarray(value)

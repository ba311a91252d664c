"""Published PyTorch checkpoints, loaded into the networks of this package.

The layers of the networks are named as in the published state dicts, so that
a key is the name of a layer with `.` for `_` and the name that PyTorch has
for the weight. What is in the file and what the network has must agree
completely: a checkpoint that fits only in part gives a network that runs and
is wrong.
"""

import os
import pickle
import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Under which names training scripts keep the state dict beside the epoch.
NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")
# What DataParallel, wrappers that normalise, and torch.compile put in front.
PREFIXES = ("module.", "model.", "_orig_mod.")
# The same of `Sequential(normalise, network)`: "1.conv1.weight".
NUMBER = re.compile(r"\d+\.")
# The pixels' mean and deviation of a wrapper that normalises.
NORMALISER = re.compile(r"(?:\d+\.)?(mean|std)")

PYTORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Axes of a Keras kernel in PyTorch's order, by rank: (h, w, in, out) becomes
# (out, in, h, w), and (in, out) becomes (out, in).
PYTORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
NAMES_IN_MESSAGE = 20
SHAPES_IN_MESSAGE = 3
# What terminals take for colours.
ANSI_CODES = re.compile(r"\x1b\[[0-9;]*m")


def load_pytorch_weights(model: keras.Model, checkpoint: Any) -> None:
    """Loads a published PyTorch checkpoint into a network of `kw.models`.

    Understands the state dicts of `PreActResNet18` (`conv1.weight`,
    `layer1.0.bn1.weight`, ..., `layer2.0.shortcut.0.weight`, ...,
    `bn.weight`, `linear.weight`) and of `WideResNet` as TRADES has it
    (`conv1.weight`, `block1.layer.0.bn1.weight`, ..., `bn1.weight`,
    `fc.weight`). Every key must be used and every weight of the model set,
    else nothing is loaded. Left out of account are `num_batches_tracked`,
    which Keras has no use for, and `sub_block1`, which the files of TRADES
    contain and its network never calls.

    The mean and standard deviation of the pixels are no part of most files:
    they are what `model` was made with. The code that published
    PreActResNet-18 on CIFAR-10 normalises by the values that are the default
    here; the code of TRADES does not normalise, which is
    `mean=0.0, std=1.0`. Where a file has them, as `mean` and `std` or `0.mean`
    and `0.std` beside `1.conv1.weight`, those of `model` must be the same. A
    file without `bn.weight` belongs to
    `PreActResNet18(final_norm=False)`.

    Args:
        model: Network of `keras_wake.models`, with as many classes and of
            the width that the checkpoint has.
        checkpoint: Path of a file made by `torch.save`, or a state dict of
            PyTorch tensors or NumPy arrays. It may lie in a dictionary under
            `"state_dict"`, `"model_state_dict"`, `"model"` or `"net"`, and
            all keys may begin with `module.`, `model.` or `_orig_mod.`, or
            with the number of a place in a `Sequential`, `1.` say.

    Raises:
        TypeError: If `model` is no `keras.Model`, or a `WakeModel`, or
            `checkpoint` neither a path nor a dictionary.
        ValueError: If a key is missing or left over, or a shape differs; the
            message lists them. If the file normalises by other values, or a
            weight is NaN or infinite. Or if the file is damaged, or holds
            more than tensors and plain Python values, and could run code when
            it is read.
        ImportError: If `checkpoint` is a path and PyTorch is not installed.

    Example:

    ```python
    classifier = keras_wake.models.PreActResNet18(num_classes=10)
    keras_wake.models.load_pytorch_weights(classifier, "model_best.pth")
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a network of `keras_wake.models`. Received: "
            f"model={model!r} (of type {type(model).__name__})."
        )
    if hasattr(model, "robust_classifier"):
        raise TypeError(
            "`model` must be one network, and a `WakeModel` holds two. Load "
            "the checkpoint into the classifier before the `WakeModel` is "
            "made: the teacher is a copy of it. Or pass `model.classifier`. "
            f"Received: {model.name!r}, a {type(model).__name__}."
        )
    state, normaliser = _state_dict(checkpoint)
    variables = dict(_variables_by_key(model))
    shapes = {key: _pytorch_shape(v) for key, v in variables.items()}
    missing = [key for key in shapes if key not in state]
    left_over = [key for key in state if key not in shapes]
    differing = [
        key
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    if missing or left_over or differing:
        raise ValueError(
            f"The checkpoint does not fit {model.name!r}; nothing was loaded. "
            + _listed("Missing", (f"{k} {shapes[k]}" for k in missing))
            + _listed("Left over", (f"{k} {state[k].shape}" for k in left_over))
            + _listed(
                "Of another shape",
                (f"{k} {state[k].shape}, not {shapes[k]}" for k in differing),
                SHAPES_IN_MESSAGE,
            )
            + _hint(missing, left_over, len(differing))
        )
    _check_normaliser(model, normaliser)
    broken = [k for k in shapes if not np.isfinite(state[k]).all()]
    if broken:
        raise ValueError(
            "The checkpoint holds NaN or infinite weights, as of a training "
            "that has diverged; nothing was loaded. "
            + _listed("In", broken, SHAPES_IN_MESSAGE)
        )
    for key, variable in variables.items():
        value = state[key]
        if variable.name == "kernel":
            value = value.transpose(np.argsort(PYTORCH_AXES[value.ndim]))
        variable.assign(np.ascontiguousarray(value))


def _state_dict(
    checkpoint: Any,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays of a checkpoint by key, without wrappers and counters.

    Second, the mean and std of a wrapper that normalises, where there is one.
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
    state = {str(key): value for key, value in state.items()}
    normaliser = _take_normaliser(state)
    while prefix := _common_prefix(state):
        state = {key.removeprefix(prefix): state[key] for key in state}
        normaliser |= _take_normaliser(state)
    arrays = {
        key.replace(".shortcut.0.", ".shortcut."): _to_numpy(value)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
        and not key.startswith("sub_block1.")
    }
    return arrays, normaliser


def _common_prefix(state: Mapping[str, Any]) -> str:
    """The wrapper's prefix that all keys have, or an empty string."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return prefix
    number = NUMBER.match(next(iter(state), ""))
    if number and all(key.startswith(number[0]) for key in state):
        return number[0]
    return ""


def _take_normaliser(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Removes the mean and std of a wrapper, and returns them."""
    matches = {key: NORMALISER.fullmatch(key) for key in state}
    return {
        match[1]: _to_numpy(state.pop(key)).ravel()
        for key, match in matches.items()
        if match
    }


def _check_normaliser(model: keras.Model, found: dict[str, np.ndarray]) -> None:
    """Refuses a network that normalises by other values than the file."""
    if not found:
        return
    layer = model.get_layer("normalization")
    scale = np.ravel(np.asarray(layer.scale, "float64"))
    offset = np.ravel(np.asarray(layer.offset, "float64"))
    own = {"mean": -offset / scale, "std": 1 / scale}
    for name, values in found.items():
        if values.size not in (1, scale.size) or not np.allclose(
            own[name], values, atol=1e-4
        ):
            theirs = values.astype("float64").round(4).tolist()
            raise ValueError(
                f"The checkpoint normalises the pixels by {name}={theirs}, "
                f"and {model.name!r} by {name}="
                f"{own[name].round(4).tolist()}; nothing was loaded. Make the "
                "network with the `mean=` and `std=` of the checkpoint."
            )


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
        # What it raises for other bytes is whatever they happen to mean.
        raise ValueError(
            f"The file {os.fspath(path)!r} could not be read: it is damaged, "
            "empty or not made by `torch.save`. Download or save it again. "
            f"PyTorch says: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return ANSI_CODES.sub("", str(error).partition("\n")[0])


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # A PyTorch tensor, without importing torch.
        # NumPy has no bfloat16.
        value = value.detach().cpu().float()
    return np.asarray(value)


def _variables_by_key(model: keras.Model) -> Iterable[tuple[str, Any]]:
    for layer in model.layers:
        for variable in layer.weights:
            name = PYTORCH_NAMES.get(variable.name, variable.name)
            yield f"{layer.name.replace('_', '.')}.{name}", variable


def _pytorch_shape(variable: Any) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    if variable.name != "kernel" or len(shape) not in PYTORCH_AXES:
        return shape
    return tuple(shape[axis] for axis in PYTORCH_AXES[len(shape)])


def _listed(
    title: str, items: Iterable[str], most: int = NAMES_IN_MESSAGE
) -> str:
    items = list(items)
    if not items:
        return ""
    shown = "; ".join(items[:most])
    more = len(items) - most
    return f"{title}: {shown}{f'; and {more} more' if more > 0 else ''}. "


def _hint(missing: list[str], left_over: list[str], differing: int) -> str:
    """What to do where only shapes, or only the last batch norm, differ."""
    if differing > SHAPES_IN_MESSAGE and not missing + left_over:
        return (
            "Make the network as wide as that of the checkpoint: `width=` of "
            "`PreActResNet18`, `widen_factor=` of `WideResNet`."
        )
    differing_keys = missing or left_over
    if missing and left_over:
        return ""
    if not differing_keys or any(
        not key.startswith("bn.") for key in differing_keys
    ):
        return ""
    return (
        "Make the network with "
        f"`PreActResNet18(..., final_norm={not missing})`."
    )

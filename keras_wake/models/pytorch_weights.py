"""Published PyTorch checkpoints, loaded into the networks of this package.

The layers of the networks are named as in the published state dicts, so that
a key is the name of a layer with `.` for `_` and the name that PyTorch has
for the weight. What is in the file and what the network has must agree
completely: a checkpoint that fits only in part gives a network that runs and
is wrong.
"""

import warnings
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_wake.models import _checkpoint_layouts
from keras_wake.models import _checkpoint_reference
from keras_wake.models._checkpoint_file import state_dict

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


def load_pytorch_weights(
    model: keras.Model,
    checkpoint: Any,
    reference: tuple[Any, Any] | None = None,
) -> None:
    """Loads a published PyTorch checkpoint into a network of `kw.models`.

    Understands the state dicts of `PreActResNet18` (`conv1.weight`,
    `layer1.0.bn1.weight`, ..., `layer2.0.shortcut.0.weight`, ...,
    `bn.weight`, `linear.weight`) and of `WideResNet` as TRADES has it
    (`conv1.weight`, `block1.layer.0.bn1.weight`, ..., `bn1.weight`,
    `fc.weight`). Every key must be used and every weight of the model set,
    else nothing is loaded. Left out of account are `num_batches_tracked`,
    which Keras has no use for, `sub_block1`, which the files of TRADES
    contain and its network never calls, and `model_preact_hl1`, which is a
    second name for other entries.

    A file does not tell all that the logits depend on: networks of different
    code have the same names and shapes. What it leaves open is the shortcut
    of a PreActResNet-18 (see `PreActResNet18(shortcut=)`), how the pixels are
    normalised, and the activation. Pass a `reference`, a few images and the
    logits that the PyTorch network has for them, and the loaded network is
    compared with it; without one there is a warning. The guide on PyTorch
    checkpoints says which published files need what.

    The mean and standard deviation of the pixels are no part of most files:
    they are what `model` was made with. The code of TRADES does not
    normalise, which is `mean=0.0, std=1.0`. Where a file has them, as `mean`
    and `std` or `mu` and `sigma`, also behind the name of a module (`0.mean`
    beside `1.conv1.weight`), those of `model` must be the same. A network
    that standardises each image by itself cannot be expressed. A file
    without `bn.weight` belongs to `PreActResNet18(final_norm=False)`.

    Args:
        model: Network of `keras_wake.models`, with as many classes and of
            the width that the checkpoint has.
        checkpoint: Path of a file made by `torch.save`, or a state dict of
            PyTorch tensors or NumPy arrays. It may lie in a dictionary under
            `"state_dict"`, `"model_state_dict"`, `"model"` or `"net"`, and
            all keys may begin with `module.`, `model.` or `_orig_mod.`, or
            with the number of a place in a `Sequential`, `1.` say.
        reference: `(images, logits)` of the PyTorch network in evaluation
            mode, arrays or tensors: images in [0, 1] before they are
            normalised, of the shape that `model` takes or with the channels
            first as PyTorch has them, and their logits (n, K). The logits of
            `model` must agree to 0.3 % of the largest of them, else its weights
            stay as they were. Defaults to `None`: nothing is compared.

    Raises:
        TypeError: If `model` is no `keras.Model`, or a `WakeModel`,
            `checkpoint` neither a path nor a dictionary, or `reference` no
            pair.
        ValueError: If a key is missing or left over, or a shape differs; the
            message lists them. If the file normalises by other values, or a
            weight is NaN or infinite. If the logits are not those of
            `reference`. Or if the file is damaged, or holds more than tensors
            and plain Python values, and could run code when it is read.
        ImportError: If `checkpoint` is a path and PyTorch is not installed.

    Example:

    ```python
    with torch.no_grad():
        logits = network.eval()(images)  # (8, 3, 32, 32), in PyTorch
    classifier = keras_wake.models.PreActResNet18(num_classes=10)
    keras_wake.models.load_pytorch_weights(
        classifier, "model_best.pth", reference=(images, logits)
    )
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
    state, normaliser = state_dict(checkpoint)
    variables = dict(_variables_by_key(model))
    _check_fits(model, state, variables)
    _check_normaliser(model, normaliser)
    if reference is not None:
        reference = _checkpoint_reference.checked(model, reference)
    _assign(model, state, variables, reference)
    if reference is None:
        questions = _checkpoint_reference.open_questions(model, normaliser)
        warnings.warn(
            f"The weights fit {model.name!r}, but the file does not specify "
            f"{questions}. Pass `reference=(images, logits)` of the "
            "PyTorch network to have them compared.",
            stacklevel=2,
        )


def _check_fits(
    model: keras.Model,
    state: Mapping[str, np.ndarray],
    variables: Mapping[str, Any],
) -> None:
    """Refuses a state dict of other names or shapes, or that is not finite."""
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
            + (
                _hint(missing, left_over, len(differing))
                or _checkpoint_layouts.described(state)
            )
        )
    broken = [k for k in shapes if not np.isfinite(state[k]).all()]
    if broken:
        raise ValueError(
            "The checkpoint holds NaN or infinite weights, as of a training "
            "that has diverged; nothing was loaded. "
            + _listed("In", broken, SHAPES_IN_MESSAGE)
        )


def _assign(
    model: keras.Model,
    state: Mapping[str, np.ndarray],
    variables: Mapping[str, Any],
    reference: tuple[Any, Any] | None,
) -> None:
    """Sets all weights, or none where the logits are not the reference's."""
    before = {
        # A copy: on PyTorch the array is the weight itself.
        key: np.array(keras.ops.convert_to_numpy(variable))
        for key, variable in variables.items()
    }
    try:
        for key, variable in variables.items():
            value = state[key]
            if variable.name == "kernel":
                value = value.transpose(np.argsort(PYTORCH_AXES[value.ndim]))
            variable.assign(np.ascontiguousarray(value))
        if reference is not None:
            _checkpoint_reference.compare(model, *reference)
    except BaseException:
        for key, variable in variables.items():
            variable.assign(before[key])
        raise


def _check_normaliser(model: keras.Model, found: dict[str, np.ndarray]) -> None:
    """Refuses a network that normalises by other values than the file."""
    if not found:
        return
    scale, offset = np.ones(1), np.zeros(1)
    if any(layer.name == "normalization" for layer in model.layers):
        layer = model.get_layer("normalization")
        scale = np.ravel(np.asarray(layer.scale, "float64"))
        offset = np.ravel(np.asarray(layer.offset, "float64"))
    own = {"mean": -offset / scale, "std": 1 / scale}
    for name, values in found.items():
        sizes = {values.size, scale.size} - {1}
        if len(sizes) > 1 or not np.allclose(own[name], values, atol=1e-4):
            theirs = values.astype("float64").round(4).tolist()
            raise ValueError(
                f"The checkpoint normalises the pixels by {name}={theirs}, "
                f"and {model.name!r} by {name}="
                f"{own[name].round(4).tolist()}; nothing was loaded. Make the "
                "network with the `mean=` and `std=` of the checkpoint."
            )


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

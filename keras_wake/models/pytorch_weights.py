"""Published PyTorch checkpoints, loaded into the networks of this package.

The layers of the networks are named as in the published state dicts: a key is
the name of a layer with `.` for `_`, and PyTorch's name for the weight. File
and network must agree completely: a checkpoint that fits only in part gives a
network that runs and is wrong.
"""

import warnings
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_wake.models import pytorch_hints
from keras_wake.models.pytorch_file import state_dict
from keras_wake.models.pytorch_file import to_numpy
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.wake_model import WakeModel

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
# Largest difference from a reference, relative to its largest logit. Measured:
# 0.0006 for TF32, at least 0.008 for the standard deviation of CIFAR-100
# instead of CIFAR-10's, far more for another shortcut.
TOLERANCE = 0.003
REFERENCE_BATCH = 64


def load_pytorch_weights(
    model: keras.Model,
    checkpoint: Any,
    reference: tuple[Tensor, Tensor] | None = None,
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
    if isinstance(model, WakeModel):
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
        reference = _checked_reference(model, reference)
    _assign(model, state, variables, reference)
    if reference is None:
        questions = pytorch_hints.open_questions(model, normaliser)
        warnings.warn(
            f"The weights fit {model.name!r}, but the file does not specify "
            f"{questions}. Pass `reference=(images, logits)` of the "
            "PyTorch network to have them compared.",
            stacklevel=2,
        )


def _check_fits(
    model: keras.Model,
    state: Mapping[str, Array],
    variables: Mapping[str, keras.Variable],
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
            + pytorch_hints.misfit(state, missing, left_over, differing)
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
    state: Mapping[str, Array],
    variables: Mapping[str, keras.Variable],
    reference: tuple[Array, Array] | None,
) -> None:
    """Sets all weights, or none if the logits are not the reference's."""
    # Copies: on PyTorch, such an array is the weight itself.
    before = [
        np.array(keras.ops.convert_to_numpy(variable))
        for variable in variables.values()
    ]
    try:
        for key, variable in variables.items():
            value = state[key]
            if variable.name == "kernel":
                value = value.transpose(np.argsort(PYTORCH_AXES[value.ndim]))
            variable.assign(np.ascontiguousarray(value))
        if reference is not None:
            _compare(model, *reference)
    except BaseException:
        for variable, value in zip(variables.values(), before, strict=True):
            variable.assign(value)
        raise


def _check_normaliser(model: keras.Model, found: dict[str, Array]) -> None:
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


def _checked_reference(
    model: keras.Model, reference: Any
) -> tuple[Array, Array]:
    """Images as `model` takes them and logits, both NumPy arrays."""
    if not isinstance(reference, (tuple, list)) or len(reference) != 2:
        raise TypeError(
            "`reference` must be a pair (images, logits). Received: an object "
            f"of type {type(reference).__name__}."
        )
    images, logits = (
        to_numpy(values).astype("float32") for values in reference
    )
    expected, classes = model.input_shape[1:], model.output_shape[-1]
    if images.shape[1:] != expected and images.ndim == len(expected) + 1:
        channels_last = np.moveaxis(images, 1, -1)
        if channels_last.shape[1:] == expected:
            images = channels_last
    if (
        images.shape[1:] != expected
        or logits.shape != (len(images), classes)
        or not len(images)
    ):
        raise ValueError(
            f"`reference` must be images of shape (n, {str(expected)[1:-1]}), "
            "or with the channels first, and their logits of shape (n, "
            f"{classes}). Received: shapes {images.shape} and {logits.shape}."
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            "The images of `reference` must be in [0, 1], before they are "
            f"normalised. Received: values from {images.min():.4g} to "
            f"{images.max():.4g}."
        )
    if not np.isfinite(logits).all():
        raise ValueError("The logits of `reference` must be finite.")
    return images, logits


def _compare(model: keras.Model, images: Array, expected: Array) -> None:
    """Refuses a network whose logits differ from those of the reference."""
    found = np.concatenate(
        [
            keras.ops.convert_to_numpy(
                model(images[i : i + REFERENCE_BATCH], training=False)
            )
            for i in range(0, len(images), REFERENCE_BATCH)
        ]
    ).astype("float32")
    largest = np.abs(expected).max()
    difference = np.abs(found - expected).max()
    # `not <=` refuses NaN as well.
    if not difference <= TOLERANCE * largest:
        causes = pytorch_hints.open_questions(model, {})
        raise ValueError(
            f"The logits of {model.name!r} differ from those of `reference` "
            f"by up to {difference:.3g}, and the largest of these is "
            f"{largest:.3g}; its weights were left as they were. Likely "
            f"causes: {causes}. Or the PyTorch network was not in evaluation "
            "mode, or its images were normalised before."
        )


def _variables_by_key(
    model: keras.Model,
) -> Iterable[tuple[str, keras.Variable]]:
    for layer in model.layers:
        for variable in layer.weights:
            name = PYTORCH_NAMES.get(variable.name, variable.name)
            yield f"{layer.name.replace('_', '.')}.{name}", variable


def _pytorch_shape(variable: keras.Variable) -> tuple[int, ...]:
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

"""Published PyTorch checkpoints, loaded into the networks of this package.

The layers of the networks are named as in the published state dicts: a key is
the name of a layer with `.` for `_`, and PyTorch's name for the weight.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_wake.data.classifier import refuse_wake_model
from keras_wake.models import pytorch_hints
from keras_wake.models.pytorch_file import state_dict
from keras_wake.models.pytorch_file import to_numpy
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor

PYTORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Axes of a Keras kernel in PyTorch's order, by rank: (h, w, in, out) becomes
# (out, in, h, w), and (in, out) becomes (out, in).
PYTORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
NAMES_IN_MESSAGE = 10
# Largest difference from a reference, relative to its largest logit. Measured:
# 0.0006 for TF32, 0.008 for the deviation of CIFAR-100 instead of CIFAR-10's.
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
    `fc.weight`). Names and shapes must agree completely, else nothing is
    loaded; only what published networks never use is left out.

    A file does not tell all that the logits depend on: the shortcut of a
    PreActResNet-18 (see `PreActResNet18(shortcut=)`), in most files how the
    pixels are normalised, and the activation. Pass a `reference`, a few
    images and the logits that the PyTorch network has for them, and the
    loaded network is compared with it; without one there is a warning. The
    guide on PyTorch checkpoints says which published files need what.

    Where a file has the mean and standard deviation of the pixels, as `mean`
    and `std` or `mu` and `sigma`, those of `model` must be the same. The code
    of TRADES does not normalise: `mean=0.0, std=1.0`. A file without
    `bn.weight` belongs to `PreActResNet18(final_norm=False)`.

    Args:
        model: Network of `keras_wake.models`, of the size of the checkpoint.
        checkpoint: Path of a file made by `torch.save`, or a state dict of
            PyTorch tensors or NumPy arrays; also in a dictionary under
            `"state_dict"`, `"model_state_dict"`, `"model"` or `"net"`, and
            with the names of modules before all keys, such as `module.`.
        reference: `(images, logits)` of the PyTorch network in evaluation
            mode, arrays or tensors: images in [0, 1] before they are
            normalised, with the channels last or first, and their logits
            (n, K). The logits of `model` must agree to 0.3 % of the largest
            of them, else its weights stay as they were. Defaults to `None`:
            nothing is compared.

    Raises:
        TypeError: If `model` is no `keras.Model`, or a `WakeModel`,
            `checkpoint` neither a path nor a dictionary, or `reference` no
            pair.
        ValueError: If keys or shapes differ; the message lists them. If the
            file normalises by other values, or a weight is NaN or infinite.
            If the logits are not those of `reference`. Or if the file is
            damaged, or could run code when it is read.
        ImportError: If `checkpoint` is a path and PyTorch is not installed.

    Example:

    ```python
    with torch.no_grad():
        logits = network.eval()(images)  # (8, 3, 32, 32), in PyTorch
    classifier = kw.models.PreActResNet18(num_classes=10)
    kw.models.load_pytorch_weights(
        classifier, "model_best.pth", reference=(images, logits)
    )
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a network of `keras_wake.models`. Received: "
            f"model={model!r} (of type {type(model).__name__})."
        )
    refuse_wake_model(model)
    state, normaliser = state_dict(checkpoint)
    variables = _variables_by_key(model)
    _check_fits(model, state, variables)
    _check_normaliser(model, normaliser)
    if reference is not None:
        reference = _checked_reference(model, reference)
    # Copies: on PyTorch, such an array is the weight itself.
    before = [np.array(value) for value in model.get_weights()]
    try:
        for key, variable in variables.items():
            value = state[key]
            if variable.name == "kernel":
                value = value.transpose(np.argsort(PYTORCH_AXES[value.ndim]))
            variable.assign(np.ascontiguousarray(value))
        if reference is not None:
            _compare(model, *reference)
    except BaseException:
        model.set_weights(before)
        raise
    if reference is None:
        questions = pytorch_hints.open_questions(model, normaliser)
        warnings.warn(
            f"The weights fit {model.name!r}, but the file does not specify "
            f"{questions}. Pass `reference=(images, logits)` of the "
            "PyTorch network to have them compared.",
            stacklevel=2,
        )


def _variables_by_key(model: keras.Model) -> dict[str, keras.Variable]:
    return {
        f"{layer.name.replace('_', '.')}."
        f"{PYTORCH_NAMES.get(variable.name, variable.name)}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def _pytorch_shape(variable: keras.Variable) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    if variable.name != "kernel" or len(shape) not in PYTORCH_AXES:
        return shape
    return tuple(shape[axis] for axis in PYTORCH_AXES[len(shape)])


def _check_fits(
    model: keras.Model,
    state: Mapping[str, Array],
    variables: Mapping[str, keras.Variable],
) -> None:
    """Refuses a state dict of other names or shapes, or that is not finite."""
    found = {key: value.shape for key, value in state.items()}
    shapes = {key: _pytorch_shape(v) for key, v in variables.items()}
    faults = {
        "Missing": [f"{k} {shapes[k]}" for k in shapes if k not in found],
        "Left over": [f"{k} {found[k]}" for k in found if k not in shapes],
        "Of another shape": [
            f"{k} {found[k]}, not {shapes[k]}"
            for k in shapes
            if found.get(k, shapes[k]) != shapes[k]
        ],
    }
    if any(faults.values()):
        raise ValueError(
            f"The checkpoint does not fit {model.name!r}; nothing was loaded. "
            + "".join(_listed(*fault) for fault in faults.items())
            + pytorch_hints.looks_like(state)
        )
    broken = [key for key in shapes if not np.isfinite(state[key]).all()]
    if broken:
        raise ValueError(
            "The checkpoint holds NaN or infinite weights, as of a training "
            "that has diverged; nothing was loaded. " + _listed("In", broken)
        )


def _listed(title: str, items: list[str]) -> str:
    if not items:
        return ""
    more = len(items) - NAMES_IN_MESSAGE
    rest = f"; and {more} more" if more > 0 else ""
    return f"{title}: {'; '.join(items[:NAMES_IN_MESSAGE])}{rest}. "


def _check_normaliser(model: keras.Model, found: Mapping[str, Array]) -> None:
    """Refuses a network that normalises by other values than the file."""
    scale, offset = np.ones(1), np.zeros(1)
    for layer in model.layers:
        if layer.name == "normalization":
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
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    received = f"Received: shapes {images.shape} and {logits.shape}."
    if images.ndim == len(shape) + 1 and images.shape[1:] != shape:
        images = np.moveaxis(images, 1, -1)
    if (
        not len(images)
        or images.shape[1:] != shape
        or logits.shape != (len(images), classes)
    ):
        raise ValueError(
            f"`reference` must be images of shape (n, {str(shape)[1:-1]}), or "
            "with the channels first, and their logits of shape (n, "
            f"{classes}). {received}"
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
    batches = np.array_split(images, -(-len(images) // REFERENCE_BATCH))
    found = [
        keras.ops.convert_to_numpy(model(batch, training=False))
        for batch in batches
    ]
    largest = np.abs(expected).max()
    difference = np.abs(np.concatenate(found) - expected).max()
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

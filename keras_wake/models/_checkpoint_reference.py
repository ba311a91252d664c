"""Whether a loaded network computes what the PyTorch network does.

Networks of different code have the same names and shapes, and a state dict
does not tell them apart.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_wake.models._checkpoint_file import pytorch_to_numpy

# Largest difference from a reference, relative to its largest logit. Measured:
# 0.0006 for TF32, at least 0.008 for the standard deviation of CIFAR-100
# instead of CIFAR-10's, far more for another shortcut.
TOLERANCE = 0.003
REFERENCE_BATCH = 64


def checked(model: keras.Model, reference: Any) -> tuple[Any, Any]:
    """Images as `model` takes them and logits, both NumPy arrays."""
    if not isinstance(reference, (tuple, list)) or len(reference) != 2:
        raise TypeError(
            "`reference` must be a pair (images, logits). Received: an object "
            f"of type {type(reference).__name__}."
        )
    images, logits = (
        pytorch_to_numpy(values).astype("float32") for values in reference
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


def compare(model: keras.Model, images: Any, expected: Any) -> None:
    """Refuses a network whose logits are not those of the reference."""
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
    # Written so that NaN is refused.
    if not difference <= TOLERANCE * largest:
        raise ValueError(
            f"The logits of {model.name!r} differ from those of `reference` "
            f"by up to {difference:.3g}, and the largest of these is "
            f"{largest:.3g}; its weights were left as they were. Likely "
            f"causes: {open_questions(model, {})}. Or the PyTorch network "
            "was not in evaluation mode, or its images were normalised before."
        )


def open_questions(model: keras.Model, normaliser: Mapping[str, Any]) -> str:
    """What the logits depend on and a state dict does not hold."""
    questions = []
    shortcut = _shortcut(model)
    if shortcut:
        other = "raw" if shortcut == "preactivated" else "preactivated"
        questions.append(
            f"the shortcut (this network has {shortcut!r}; "
            f"`PreActResNet18(shortcut={other!r})` has the other form)"
        )
    if len(normaliser) < 2:
        questions.append(
            "how the pixels are normalised (`mean=` and `std=` of this "
            "network, or each image by itself)"
        )
    return ", ".join([*questions, "the activation"])


def _shortcut(model: keras.Model) -> str | None:
    """The form of a PreActResNet's shortcuts, or None for other networks."""
    layers = {layer.name: layer for layer in model.layers}
    shortcut, relu = (
        layers.get(f"layer2_0_{name}") for name in ("shortcut", "relu1")
    )
    if shortcut is None or relu is None:
        return None
    return "preactivated" if shortcut.input is relu.output else "raw"

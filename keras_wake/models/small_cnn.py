"""A small convolutional network, for adversarial training on a CPU."""

import math
from collections.abc import Iterable
from collections.abc import Sequence

import keras

from keras_wake.models import _blocks
from keras_wake.utils import validate


def SmallCNN(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    widths: Sequence[int] = (32, 64, 64, 128, 128),
    strides: Sequence[int] = (2, 2, 1, 2, 1),
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "small_cnn",
) -> keras.Model:
    """3x3 convolutions with batch norm and ReLU, pooled, then linear.

    Use it where a ResNet is too slow: an epoch of adversarial training on a
    few thousand 32x32 images takes seconds on a CPU, and robust overfitting
    shows all the same.

    Args:
        num_classes: Number of logits, at least 2. Defaults to `10`.
        input_shape: `(height, width, channels)` of an image, both sides at
            least the product of `strides`. Defaults to `(32, 32, 3)`.
        widths: Channels of each convolution. Defaults to
            `(32, 64, 64, 128, 128)`.
        strides: Stride of each convolution, as many as `widths`. Defaults
            to `(2, 2, 1, 2, 1)`.
        mean: Of the pixels, as for `PreActResNet18`.
        std: Of the pixels, like `mean`.
        name: Name of the model.

    Returns:
        A functional `keras.Model` like that of `PreActResNet18`.

    Raises:
        ValueError, TypeError: If `widths` and `strides` differ in length, and
            as for `PreActResNet18`.

    Example:

    ```python
    classifier = kw.models.SmallCNN(
        input_shape=(8, 8, 1), widths=(32, 64, 64), strides=(1, 2, 2)
    )
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    widths = _integers(widths=widths)
    strides = _integers(strides=strides)
    if not widths or len(widths) != len(strides):
        raise ValueError(
            "`widths` and `strides` must have one entry per convolution and "
            "not be empty. "
            f"Received: widths={tuple(widths)}, strides={tuple(strides)}."
        )

    images, x = _blocks.normalized_input(
        input_shape, math.prod(strides), mean, std
    )
    for layer, (width, stride) in enumerate(
        zip(widths, strides, strict=True), start=1
    ):
        x = _blocks.conv(x, width, 3, stride, name=f"conv{layer}")
        x = _blocks.batch_norm_relu(x, f"bn{layer}", f"relu{layer}")
    logits = _blocks.pooled_logits(x, num_classes)
    return keras.Model(images, logits, name=name)


def _integers(**kwargs: object) -> list[int]:
    """One integer per convolution, under the name the user knows."""
    name, values = validate.name_and_value(kwargs)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(
            f"`{name}` must hold one integer per convolution, "
            f"`{name}=(8, 8)` say. Received: {name}={values!r} (of type "
            f"{type(values).__name__})."
        )
    return [validate.integer(1, **{name: value}) for value in values]

"""Layers shared by the networks: each one as the published code builds it.

The published networks are PyTorch networks, so convolutions, linear layers
and batch normalisation start from PyTorch's defaults unless the published
code says otherwise, and every layer has the name of its twin in the PyTorch
state dict (with `_` for `.`) so that checkpoints can be mapped. Only layers
of plain Keras are used: a saved network loads where keras-wake is not
installed.
"""

import math
import numbers
from collections.abc import Iterable
from collections.abc import Sequence

import keras

from keras_wake.utils import validate

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)

ChannelValues = float | Sequence[float] | None


def check_input_shape(
    input_shape: object, smallest_side: int
) -> tuple[int, int, int]:
    """`(height, width, channels)` with both sides at least `smallest_side`."""
    if isinstance(input_shape, (str, bytes)) or not isinstance(
        input_shape, Sequence
    ):
        raise TypeError(
            "`input_shape` must be a sequence (height, width, channels). "
            f"Received: input_shape={input_shape!r} "
            f"(of type {type(input_shape).__name__})."
        )
    whole_numbers = all(
        isinstance(side, numbers.Integral) and not isinstance(side, bool)
        for side in input_shape
    )
    if len(input_shape) != 3 or not whole_numbers or min(input_shape) < 1:
        raise ValueError(
            "`input_shape` must be (height, width, channels) in positive "
            "integers, without the batch axis. "
            f"Received: input_shape={input_shape!r}."
        )
    height, width, channels = (int(side) for side in input_shape)
    if min(height, width) < smallest_side:
        raise ValueError(
            f"`input_shape` must be at least {smallest_side} pixels high and "
            f"wide, because the strides of the network divide an image by "
            f"{smallest_side}. Received: input_shape={input_shape!r}."
        )
    return height, width, channels


def _per_channel(
    values: ChannelValues, default: Sequence[float], channels: int, name: str
) -> list[float]:
    """`channels` floats from a number, one number per channel, or None."""
    if values is None:
        return list(default)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [validate.real("", **{name: values})] * channels
    numbers_given = [validate.real("", **{name: value}) for value in values]
    if len(numbers_given) != channels:
        raise ValueError(
            f"`{name}` must be a number or one number per channel "
            f"({channels}). Received: {name}={values!r}."
        )
    return numbers_given


def normalization(
    channels: int, mean: ChannelValues, std: ChannelValues
) -> keras.layers.Layer:
    """The layer (x - mean) / std, by default with CIFAR-10's values on RGB."""
    is_rgb = channels == 3
    mean = _per_channel(
        mean, CIFAR10_MEAN if is_rgb else [0.5] * channels, channels, "mean"
    )
    std = _per_channel(
        std, CIFAR10_STD if is_rgb else [0.5] * channels, channels, "std"
    )
    if min(std) <= 0:
        raise ValueError(
            f"`std` must be greater than 0. Received: std={std!r}."
        )
    # Nested to rank 3: Keras reshapes a flat list for channels_first where
    # that is the global image format, and these networks are channels_last.
    scale = [[[1.0 / deviation for deviation in std]]]
    offset = [
        [
            [
                -centre / deviation
                for centre, deviation in zip(mean, std, strict=True)
            ]
        ]
    ]
    return keras.layers.Rescaling(scale, offset, name="normalization")


def _uniform_fan_in() -> keras.initializers.Initializer:
    """PyTorch's default for kernels: uniform in ±1 / sqrt(fan_in).

    Made anew for each layer, because an initializer object repeats itself.
    """
    return keras.initializers.VarianceScaling(
        scale=1.0 / 3.0, mode="fan_in", distribution="uniform"
    )


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    kernel_initializer: keras.initializers.Initializer | None = None,
) -> keras.KerasTensor:
    """A convolution without bias, padded by `kernel_size // 2` on all sides."""
    padding = "same"
    if strides > 1:
        # Keras pads "same" on the right and at the bottom only when the
        # stride is 2; PyTorch's checkpoints expect one pixel on every side.
        padding = "valid"
        if kernel_size > 1:
            x = keras.layers.ZeroPadding2D(
                kernel_size // 2,
                data_format="channels_last",
                name=f"{name}_padding",
            )(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        data_format="channels_last",
        use_bias=False,
        kernel_initializer=kernel_initializer or _uniform_fan_in(),
        name=name,
    )(x)


def batch_norm_relu(
    x: keras.KerasTensor, name: str, relu_name: str
) -> keras.KerasTensor:
    """Batch normalisation with PyTorch's constants, then ReLU."""
    x = keras.layers.BatchNormalization(
        axis=-1, momentum=0.9, epsilon=1e-5, name=name
    )(x)
    return keras.layers.ReLU(name=relu_name)(x)


def pooled_logits(
    x: keras.KerasTensor,
    num_classes: int,
    name: str = "linear",
    bias_initializer: keras.initializers.Initializer | None = None,
) -> keras.KerasTensor:
    """Global average pooling and the linear layer."""
    x = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", name="avg_pool"
    )(x)
    limit = 1.0 / math.sqrt(x.shape[-1])
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=_uniform_fan_in(),
        bias_initializer=bias_initializer
        or keras.initializers.RandomUniform(-limit, limit),
        name=name,
    )(x)

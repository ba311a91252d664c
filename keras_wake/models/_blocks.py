"""Layers shared by the networks: each one as the published code builds it.

The published networks are PyTorch networks, so layers start from PyTorch's
defaults unless the published code says otherwise, and have the names of their
twins in the PyTorch state dict, with `_` for `.`. All are plain Keras layers: a
saved network loads where keras-wake is not installed, unless it has gradient
checkpointing.
"""

import math
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras

from keras_wake.models.gradient_checkpointing import CheckpointedModel
from keras_wake.utils import validate

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)

ChannelValues = float | Sequence[float] | None
# An initializer object repeats itself, so each layer makes one of its own.
MakeInitializer = Callable[[], keras.initializers.Initializer]


def normalized_input(
    input_shape: tuple[int, int, int],
    smallest_side: int,
    mean: ChannelValues,
    std: ChannelValues,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The images, and (images - mean) / std; checks all arguments."""
    *_, channels = check_input_shape(input_shape, smallest_side)
    rgb = channels == 3
    mean = _per_channel(CIFAR10_MEAN if rgb else 0.5, channels, mean=mean)
    std = _per_channel(CIFAR10_STD if rgb else 0.5, channels, std=std)
    for deviation in std:
        validate.positive(std=deviation)
    # Nested to rank 3: Keras reshapes a flat list for channels_first where
    # that is the global image format, and these networks are channels_last.
    scale = [[[1.0 / deviation for deviation in std]]]
    offset = [[[-m / s for m, s in zip(mean, std, strict=True)]]]
    layer = keras.layers.Rescaling(scale, offset, name="normalization")
    images = keras.Input(tuple(input_shape), name="images")
    return images, layer(images)


def check_input_shape(
    input_shape: Sequence[int], smallest_side: int
) -> list[int]:
    """`[height, width, channels]`, both sides at least `smallest_side`."""
    try:
        shape = [operator.index(size) for size in input_shape]
    except TypeError:
        shape = []
    if len(shape) != 3 or min(shape) < 1 or min(shape[:2]) < smallest_side:
        raise ValueError(
            "`input_shape` must be (height, width, channels) in positive "
            "integers, without the batch axis. For this network, an image is "
            f"at least {smallest_side} pixels high and wide. "
            f"Received: input_shape={input_shape!r}."
        )
    return shape


def _per_channel(
    default: float | Sequence[float], channels: int, **kwargs: ChannelValues
) -> list[float]:
    """One number per channel, from a number or one per channel."""
    name, values = validate.name_and_value(kwargs)
    values = default if values is None else values
    if isinstance(values, str) or not isinstance(values, Iterable):
        values = [values] * channels
    floats = [validate.real(**{name: value}) for value in values]
    if len(floats) != channels:
        raise ValueError(
            f"`{name}` must be a number or one number per channel "
            f"({channels}). Received: {name}={values!r}."
        )
    return floats


def uniform_fan_in() -> keras.initializers.Initializer:
    """PyTorch's default for kernels: uniform in ±1 / sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(
        scale=1.0 / 3.0, mode="fan_in", distribution="uniform"
    )


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    kernel_initializer: MakeInitializer = uniform_fan_in,
) -> keras.KerasTensor:
    """A convolution without bias, padded by `kernel_size // 2` on all sides."""
    padding = "same"
    if strides > 1:
        # With stride 2, Keras would pad only on the right and at the bottom.
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
        kernel_initializer=kernel_initializer(),
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


def pre_activation_block(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    name: str,
    shortcut_name: str = "shortcut",
    raw_shortcut: bool = False,
    kernel_initializer: MakeInitializer = uniform_fan_in,
) -> keras.KerasTensor:
    """Two times batch norm, ReLU, 3x3 convolution, around a shortcut."""
    shortcut = x
    activated = batch_norm_relu(x, f"{name}_bn1", f"{name}_relu1")
    if strides != 1 or x.shape[-1] != filters:
        shortcut = conv(
            x if raw_shortcut else activated,
            filters,
            1,
            strides,
            f"{name}_{shortcut_name}",
            kernel_initializer,
        )
    x = conv(
        activated, filters, 3, strides, f"{name}_conv1", kernel_initializer
    )
    x = batch_norm_relu(x, f"{name}_bn2", f"{name}_relu2")
    x = conv(x, filters, 3, 1, f"{name}_conv2", kernel_initializer)
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])


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
        kernel_initializer=uniform_fan_in(),
        bias_initializer=bias_initializer
        or keras.initializers.RandomUniform(-limit, limit),
        name=name,
    )(x)


def network(
    images: keras.KerasTensor,
    logits: keras.KerasTensor,
    name: str,
    gradient_checkpointing: bool,
) -> keras.Model:
    """The network from images to logits."""
    kind = keras.Model
    if validate.boolean(gradient_checkpointing=gradient_checkpointing):
        kind = CheckpointedModel
    return kind(images, logits, name=name)

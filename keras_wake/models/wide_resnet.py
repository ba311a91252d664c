"""Wide residual networks for small images, as TRADES and AWP use them."""

import keras

from keras_wake.models import _blocks
from keras_wake.utils import validate

STEM_WIDTH = 16
GROUP_STRIDES = (1, 2, 2)


def WideResNet(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    depth: int = 28,
    widen_factor: int = 10,
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "wide_resnet",
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """The wide residual network WRN-`depth`-`widen_factor`.

    A 3x3 stem of 16 channels, three groups of (`depth` - 4) / 6
    pre-activation blocks with 16, 32 and 64 times `widen_factor` channels and
    strides 1, 2, 2, a last batch normalisation with ReLU, global average
    pooling and a linear layer (Zagoruyko and Komodakis, "Wide Residual
    Networks", 2016). Where the shape changes, the shortcut is a 1x1
    convolution of the activated input. There is no dropout.

    The input is normalised inside the network. The code of TRADES feeds the
    pixels as they are: `mean=0.0, std=1.0`. Weights start as in that code:
    convolutions normal with variance 2 / (9 · filters) (2 / filters for 1x1),
    the bias of the linear layer 0.

    Args:
        num_classes: Number of logits, at least 2. Defaults to `10`.
        input_shape: `(height, width, channels)` of an image, both sides at
            least 4. Defaults to `(32, 32, 3)`.
        depth: Number of layers with weights, without the convolutions of
            the shortcuts: 10, 16, 22, 28, 34, ... Defaults to `28`.
        widen_factor: Width of the blocks in multiples of 16, 32 and 64
            channels, at least 1. Defaults to `10`.
        mean: Of the pixels, as for `PreActResNet18`.
        std: Of the pixels, like `mean`.
        name: Name of the model.
        gradient_checkpointing: As for `PreActResNet18`.

    Returns:
        A functional `keras.Model` like that of `PreActResNet18`, with layers
        named as in the PyTorch state dict of TRADES (`conv1`,
        `block1_layer_0_bn1`, ..., `bn1`, `fc`).

    Raises:
        ValueError, TypeError: If `depth` is not 6 n + 4, and as for
            `PreActResNet18`.

    Example:

    ```python
    classifier = kw.models.WideResNet(depth=34, widen_factor=10)
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    depth = validate.integer(10, depth=depth)
    if (depth - 4) % 6:
        raise ValueError(
            "`depth` must be 6 n + 4, for n blocks in each of three groups: "
            f"10, 16, 22, 28, 34, ... Received: depth={depth}."
        )
    widen_factor = validate.integer(1, widen_factor=widen_factor)

    images, x = _blocks.normalized_input(input_shape, 4, mean, std)
    x = _blocks.conv(x, STEM_WIDTH, 3, 1, "conv1", _normal_fan_out)
    for group, group_strides in enumerate(GROUP_STRIDES):
        for block in range((depth - 4) // 6):
            x = _blocks.pre_activation_block(
                x,
                filters=STEM_WIDTH * widen_factor * 2**group,
                strides=group_strides if block == 0 else 1,
                name=f"block{group + 1}_layer_{block}",
                shortcut_name="convShortcut",
                kernel_initializer=_normal_fan_out,
            )
    x = _blocks.batch_norm_relu(x, name="bn1", relu_name="relu")
    logits = _blocks.pooled_logits(
        x, num_classes, "fc", keras.initializers.Zeros()
    )
    return _blocks.network(images, logits, name, gradient_checkpointing)


def WideResNet28_10(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "wide_resnet28_10",
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """`WideResNet(depth=28, widen_factor=10)`: 36.5 million weights."""
    return WideResNet(
        num_classes,
        input_shape,
        28,
        10,
        mean,
        std,
        name,
        gradient_checkpointing,
    )


def WideResNet34_10(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "wide_resnet34_10",
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """`WideResNet(depth=34, widen_factor=10)`: 46.2 million weights."""
    return WideResNet(
        num_classes,
        input_shape,
        34,
        10,
        mean,
        std,
        name,
        gradient_checkpointing,
    )


def _normal_fan_out() -> keras.initializers.Initializer:
    """Normal with variance 2 / (kernel area · filters), as published."""
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )

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
) -> keras.Model:
    """The wide residual network WRN-`depth`-`widen_factor`.

    A 3x3 stem of 16 channels, three groups of (`depth` - 4) / 6
    pre-activation blocks with 16, 32 and 64 times `widen_factor` channels and
    strides 1, 2, 2, a last batch normalisation with ReLU, global average
    pooling and a linear layer. Where the shape changes, the shortcut is a 1x1
    convolution of the activated input. There is no dropout, as in robust
    training.

    Paper: Zagoruyko and Komodakis, "Wide Residual Networks", 2016.

    The input is normalised inside the network, so a radius epsilon of an
    attack is in pixel units of [0, 1]. The code of TRADES feeds the pixels as
    they are: `mean=0.0, std=1.0`. Weights start as in that code: convolutions
    normal with variance 2 / (9 · filters) (2 / filters for 1x1), the bias of
    the linear layer 0. `keras.utils.set_random_seed` makes them reproducible.

    Args:
        num_classes: Number of logits, at least 2. Defaults to 10.
        input_shape: `(height, width, channels)` of an image, both sides at
            least 4. Defaults to `(32, 32, 3)`.
        depth: Number of layers with weights, without the convolutions of
            the shortcuts: 10, 16, 22, 28, 34, ... Defaults to 28.
        widen_factor: Width of the blocks in multiples of 16, 32 and 64
            channels, at least 1. Defaults to 10.
        mean: Mean of the pixels in [0, 1]: a number, or one per channel.
            Defaults to CIFAR-10's for three channels, else to 0.5.
        std: Standard deviation of the pixels in [0, 1], like `mean`.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from float images in [0, 1] of shape
        `(batch, height, width, channels)` to logits of shape
        `(batch, num_classes)`. It is made of plain Keras layers, named as in
        the PyTorch state dict of TRADES (`conv1`, `block1_layer_0_bn1`, ...,
        `bn1`, `fc`), and loads without keras-wake. `load_pytorch_weights`
        fills it from such a state dict.

    Raises:
        ValueError: `depth` is not 6 n + 4, a size is out of range, or `mean`
            or `std` does not fit the number of channels.
        TypeError: An argument has the wrong type.

    Example:

    ```python
    import numpy as np
    import keras_wake as kw

    classifier = kw.models.WideResNet(num_classes=10, depth=10, widen_factor=1)
    logits = classifier(np.zeros((2, 32, 32, 3), "float32"))  # (2, 10)
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
    input_shape = _blocks.check_input_shape(input_shape, smallest_side=4)

    images = keras.Input(input_shape, name="images")
    x = _blocks.normalization(input_shape[-1], mean, std)(images)
    x = _blocks.conv(x, STEM_WIDTH, 3, 1, "conv1", _normal_fan_out())
    for group, group_strides in enumerate(GROUP_STRIDES):
        for block in range((depth - 4) // 6):
            x = _wide_block(
                x,
                filters=STEM_WIDTH * widen_factor * 2**group,
                strides=group_strides if block == 0 else 1,
                name=f"block{group + 1}_layer_{block}",
            )
    x = _blocks.batch_norm_relu(x, name="bn1", relu_name="relu")
    logits = _blocks.pooled_logits(
        x, num_classes, "fc", keras.initializers.Zeros()
    )
    return keras.Model(images, logits, name=name)


def WideResNet28_10(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "wide_resnet28_10",
) -> keras.Model:
    """`WideResNet` with depth 28 and widen factor 10: 36.5 million weights.

    Arguments, result and errors are those of `WideResNet`.

    Example:

    ```python
    classifier = keras_wake.models.WideResNet28_10(num_classes=10)
    ```
    """
    return WideResNet(num_classes, input_shape, 28, 10, mean, std, name)


def WideResNet34_10(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "wide_resnet34_10",
) -> keras.Model:
    """`WideResNet` with depth 34 and widen factor 10: 46.2 million weights.

    Arguments, result and errors are those of `WideResNet`.

    Example:

    ```python
    classifier = keras_wake.models.WideResNet34_10(num_classes=10)
    ```
    """
    return WideResNet(num_classes, input_shape, 34, 10, mean, std, name)


def _normal_fan_out() -> keras.initializers.Initializer:
    """Normal with variance 2 / (kernel area · filters), as published."""
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def _wide_block(
    x: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    """Two times batch norm, ReLU, 3x3 convolution, around a shortcut."""
    shortcut = x
    activated = _blocks.batch_norm_relu(x, f"{name}_bn1", f"{name}_relu1")
    if strides != 1 or x.shape[-1] != filters:
        shortcut = _blocks.conv(
            activated,
            filters,
            1,
            strides,
            f"{name}_convShortcut",
            _normal_fan_out(),
        )
    x = _blocks.conv(
        activated, filters, 3, strides, f"{name}_conv1", _normal_fan_out()
    )
    x = _blocks.batch_norm_relu(x, f"{name}_bn2", f"{name}_relu2")
    x = _blocks.conv(x, filters, 3, 1, f"{name}_conv2", _normal_fan_out())
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])

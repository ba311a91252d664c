"""PreActResNet-18 for small images, the network of the published results."""

import keras

from keras_wake.models import _blocks
from keras_wake.utils import validate

BLOCKS_PER_STAGE = 2
STAGE_STRIDES = (1, 2, 2, 2)
SHORTCUTS = ("preactivated", "raw")


def PreActResNet18(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    width: int = 64,
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    final_norm: bool = True,
    name: str = "preact_resnet18",
    shortcut: str = "preactivated",
) -> keras.Model:
    """The pre-activation ResNet-18 of robust training.

    A 3x3 stem, four stages of two pre-activation blocks with `width`, twice,
    four and eight times `width` channels and strides 1, 2, 2, 2, a last batch
    normalisation with ReLU, global average pooling and a linear layer. Use it
    to reproduce published settings (`width=64`); a smaller `width` is the
    same network at a fraction of the cost.

    Paper: He et al., "Identity Mappings in Deep Residual Networks", 2016.

    The input is normalised inside the network, so a radius epsilon of an
    attack is in pixel units of [0, 1]. Weights start as in PyTorch, whose
    code is the published one: kernels uniform in ±1 / sqrt(fan_in).
    `keras.utils.set_random_seed` makes them reproducible.

    Args:
        num_classes: Number of logits, at least 2. Defaults to 10.
        input_shape: `(height, width, channels)` of an image, both sides at
            least 8. Defaults to `(32, 32, 3)`.
        width: Channels of the first stage, at least 1. Defaults to 64.
        mean: Mean of the pixels in [0, 1]: a number, or one per channel.
            Defaults to CIFAR-10's for three channels, else to 0.5.
        std: Standard deviation of the pixels in [0, 1], like `mean`.
        final_norm: Whether batch normalisation and ReLU come before the
            pooling. `False` makes the network of the checkpoints that have
            no `bn.weight`. Defaults to `True`.
        name: Name of the model.
        shortcut: What the 1x1 convolution of a shortcut is given, where the
            shape changes: `"preactivated"`, the input after batch norm and
            ReLU, or `"raw"`, the input of the block as it is. Published
            code has both, and their weights look the same. Defaults to
            `"preactivated"`.

    Returns:
        A functional `keras.Model` from float images in [0, 1] of shape
        `(batch, height, width, channels)` to logits of shape
        `(batch, num_classes)`. It is made of plain Keras layers, named as in
        the PyTorch state dict (`conv1`, `layer1_0_bn1`, ..., `bn`,
        `linear`), and loads without keras-wake. `load_pytorch_weights`
        fills it from such a state dict.

    Raises:
        ValueError: A size is out of range, `mean` or `std` does not fit the
            number of channels, or `shortcut` is neither of the two.
        TypeError: An argument has the wrong type.

    Example:

    ```python
    import numpy as np
    import keras_wake as kw

    classifier = kw.models.PreActResNet18(num_classes=10, width=8)
    logits = classifier(np.zeros((2, 32, 32, 3), "float32"))  # (2, 10)
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    width = validate.integer(1, width=width)
    final_norm = validate.boolean(final_norm=final_norm)
    validate.one_of(SHORTCUTS, shortcut=shortcut)
    input_shape = _blocks.check_input_shape(input_shape, smallest_side=8)

    images = keras.Input(input_shape, name="images")
    x = _blocks.normalization(input_shape[-1], mean, std)(images)
    x = _blocks.conv(x, width, 3, 1, name="conv1")
    for stage, stage_strides in enumerate(STAGE_STRIDES):
        for block in range(BLOCKS_PER_STAGE):
            x = _pre_activation_block(
                x,
                filters=width * 2**stage,
                strides=stage_strides if block == 0 else 1,
                name=f"layer{stage + 1}_{block}",
                raw=shortcut == "raw",
            )
    if final_norm:
        x = _blocks.batch_norm_relu(x, name="bn", relu_name="relu")
    logits = _blocks.pooled_logits(x, num_classes)
    return keras.Model(images, logits, name=name)


def _pre_activation_block(
    x: keras.KerasTensor, filters: int, strides: int, name: str, raw: bool
) -> keras.KerasTensor:
    """Two times batch norm, ReLU, 3x3 convolution, around a shortcut."""
    shortcut = x
    activated = _blocks.batch_norm_relu(x, f"{name}_bn1", f"{name}_relu1")
    if strides != 1 or x.shape[-1] != filters:
        # The identity sees the raw input in either form.
        projected = x if raw else activated
        shortcut = _blocks.conv(
            projected, filters, 1, strides, name=f"{name}_shortcut"
        )
    x = _blocks.conv(activated, filters, 3, strides, name=f"{name}_conv1")
    x = _blocks.batch_norm_relu(x, f"{name}_bn2", f"{name}_relu2")
    x = _blocks.conv(x, filters, 3, 1, name=f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])

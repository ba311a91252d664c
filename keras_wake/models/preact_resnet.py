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
    gradient_checkpointing: bool = False,
) -> keras.Model:
    """The pre-activation ResNet-18 of robust training.

    A 3x3 stem, four stages of two pre-activation blocks with 1, 2, 4 and 8
    times `width` channels and strides 1, 2, 2, 2, a last batch normalisation
    with ReLU, global average pooling and a linear layer (He et al., "Identity
    Mappings in Deep Residual Networks", 2016). Published settings have
    `width=64`; with a smaller one the network costs a fraction.

    The input is normalised inside the network, so the epsilon of an attack is
    in units of pixels in [0, 1]. Weights start as in the published code, which
    is PyTorch's: kernels uniform in ±1 / sqrt(fan_in).

    Args:
        num_classes: Number of logits, at least 2. Defaults to `10`.
        input_shape: `(height, width, channels)` of an image, both sides at
            least 8. Defaults to `(32, 32, 3)`.
        width: Channels of the first stage, at least 1. Defaults to `64`.
        mean: Mean of the pixels in [0, 1]: a number, or one per channel.
            Defaults to CIFAR-10's for three channels, else to 0.5.
        std: Standard deviation of the pixels in [0, 1], like `mean`.
        final_norm: Whether batch normalisation and ReLU come before the
            pooling. `False` makes the network of the checkpoints that have
            no `bn.weight`. Defaults to `True`.
        name: Name of the model.
        shortcut: Where the shape changes, the shortcut is a 1x1 convolution
            of the block's input: `"preactivated"`, after batch norm and ReLU,
            or `"raw"`, as it is. Published code has both, and their weights
            look the same. Defaults to `"preactivated"`.
        gradient_checkpointing: Whether only the input of each block is kept
            for a gradient, and the block computed once more, to save memory.
            Weights and logits are the same. Defaults to `False`.

    Returns:
        A functional `keras.Model` from float images in [0, 1] to logits
        `(batch, num_classes)`. It loads without keras-wake, unless it has
        gradient checkpointing. Its layers are named as in the PyTorch
        state dict (`conv1`, `layer1_0_bn1`, ..., `bn`, `linear`), from which
        `load_pytorch_weights` fills it.

    Raises:
        ValueError, TypeError: If an argument is out of range, has the wrong
            type, or does not fit the number of channels.

    Example:

    ```python
    classifier = kw.models.PreActResNet18(num_classes=10, width=8)
    logits = classifier(np.zeros((2, 32, 32, 3), "float32"))  # (2, 10)
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    width = validate.integer(1, width=width)
    final_norm = validate.boolean(final_norm=final_norm)
    validate.one_of(SHORTCUTS, shortcut=shortcut)

    images, x = _blocks.normalized_input(input_shape, 8, mean, std)
    x = _blocks.conv(x, width, 3, 1, name="conv1")
    for stage, stage_strides in enumerate(STAGE_STRIDES):
        for block in range(BLOCKS_PER_STAGE):
            x = _blocks.pre_activation_block(
                x,
                filters=width * 2**stage,
                strides=stage_strides if block == 0 else 1,
                name=f"layer{stage + 1}_{block}",
                raw_shortcut=shortcut == "raw",
            )
    if final_norm:
        x = _blocks.batch_norm_relu(x, name="bn", relu_name="relu")
    logits = _blocks.pooled_logits(x, num_classes)
    return _blocks.network(images, logits, name, gradient_checkpointing)

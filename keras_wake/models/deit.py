"""DeiT-Ti for small images, on the backbone of KerasHub (extra `hub`)."""

import keras

from keras_wake.models import _blocks
from keras_wake.utils import validate

HEAD_WIDTH = 64
MLP_RATIO = 4


def DeiTTiny(
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    patch_size: int = 4,
    num_layers: int = 12,
    num_heads: int = 3,
    mean: _blocks.ChannelValues = None,
    std: _blocks.ChannelValues = None,
    name: str = "deit_tiny",
) -> keras.Model:
    """The vision transformer DeiT-Ti, with small patches for small images.

    `keras_hub.models.DeiTBackbone` with 12 blocks, 3 heads of width 64 (192
    channels) and 768 channels inside a block, and a linear layer on the class
    token (Touvron et al., "Training data-efficient image transformers &
    distillation through attention", 2021). The logits do not read the
    distillation token of the backbone. Weights are random.

    Args:
        num_classes: Number of logits, at least 2. Defaults to `10`.
        input_shape: `(height, width, channels)` of an image, both sides
            multiples of `patch_size`. Defaults to `(32, 32, 3)`.
        patch_size: Height and width of a patch. Defaults to `4`.
        num_layers: Number of transformer blocks. Defaults to `12`.
        num_heads: Attention heads, each 64 channels wide. Defaults to `3`.
        mean: Of the pixels, as for `PreActResNet18`.
        std: Of the pixels, like `mean`.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from images in [0, 1] to logits. A saved
        one loads where KerasHub is installed.

    Raises:
        ImportError: KerasHub is not installed, or cannot be imported.
        ValueError, TypeError: If `input_shape` is not a multiple of
            `patch_size`, if Keras is set to images with the channels first,
            and as for `PreActResNet18`.

    Example:

    ```python
    classifier = kw.models.DeiTTiny(num_classes=10)
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    patch_size = validate.integer(1, patch_size=patch_size)
    num_layers = validate.integer(1, num_layers=num_layers)
    num_heads = validate.integer(1, num_heads=num_heads)
    *sides, _ = _blocks.check_input_shape(input_shape, patch_size)
    if any(side % patch_size for side in sides):
        raise ValueError(
            "Height and width in `input_shape` must be multiples of "
            f"`patch_size`. Received: input_shape={input_shape}, "
            f"patch_size={patch_size}."
        )
    if keras.config.image_data_format() != "channels_last":
        # The backbone's config does not hold the format, so a copy of it, the
        # teacher, would take the global one.
        raise ValueError(
            "DeiTTiny needs images with the channels last, and Keras is set "
            "to the channels first. Call "
            '`keras.config.set_image_data_format("channels_last")` before.'
        )
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            f"DeiTTiny needs KerasHub, which could not be imported: {error}. "
            "Install it, and what it needs, with `pip install keras-wake[hub]`."
        ) from error

    hidden_dim = HEAD_WIDTH * num_heads
    images, x = _blocks.normalized_input(input_shape, patch_size, mean, std)
    tokens = keras_hub.models.DeiTBackbone(
        image_shape=tuple(input_shape),
        patch_size=patch_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=MLP_RATIO * hidden_dim,
        name="backbone",
    )(x)
    logits = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="head",
    )(tokens[:, 0])
    return keras.Model(images, logits, name=name)

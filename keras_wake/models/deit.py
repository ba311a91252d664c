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
    token. Fewer `num_layers` and `num_heads` make the same network at a
    fraction of the cost. Nothing is distilled into the distillation token
    that the backbone has: the other tokens attend to it, and the logits do
    not read it. Weights are random.

    Paper: Touvron et al., "Training data-efficient image transformers &
    distillation through attention", 2021.

    The input is normalised inside the network, so a radius epsilon of an
    attack is in pixel units of [0, 1].

    Args:
        num_classes: Number of logits, at least 2. Defaults to 10.
        input_shape: `(height, width, channels)` of an image, both sides
            multiples of `patch_size`. Defaults to `(32, 32, 3)`.
        patch_size: Height and width of a patch. Defaults to 4.
        num_layers: Number of transformer blocks. Defaults to 12.
        num_heads: Number of attention heads, each 64 channels wide. Defaults
            to 3.
        mean: Mean of the pixels in [0, 1]: a number, or one per channel.
            Defaults to CIFAR-10's for three channels, else to 0.5.
        std: Standard deviation of the pixels in [0, 1], like `mean`.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from float images in [0, 1] of shape
        `(batch, height, width, channels)` to logits of shape
        `(batch, num_classes)`. A saved one loads where KerasHub is
        installed.

    Raises:
        ImportError: KerasHub is not installed, or cannot be imported.
        ValueError: A size is out of range, `input_shape` is not a multiple of
            `patch_size`, `mean` or `std` does not fit the number of channels,
            or Keras is set to images with the channels first.
        TypeError: An argument has the wrong type.

    Example:

    ```python
    import keras_wake as kw

    classifier = kw.models.DeiTTiny(num_classes=10)
    ```
    """
    num_classes = validate.integer(2, num_classes=num_classes)
    patch_size = validate.integer(1, patch_size=patch_size)
    num_layers = validate.integer(1, num_layers=num_layers)
    num_heads = validate.integer(1, num_heads=num_heads)
    input_shape = _blocks.check_input_shape(input_shape, smallest_side=1)
    if any(side % patch_size for side in input_shape[:2]):
        raise ValueError(
            "Height and width in `input_shape` must be multiples of "
            f"`patch_size`. Received: input_shape={input_shape}, "
            f"patch_size={patch_size}."
        )
    if keras.config.image_data_format() != "channels_last":
        # The backbone's config does not hold the format, so a copy of it, the
        # teacher, would take the global one.
        raise ValueError(
            "DeiTTiny needs images with the channels last. Received: "
            f"keras.config.image_data_format()="
            f"{keras.config.image_data_format()!r}. Call "
            '`keras.config.set_image_data_format("channels_last")` before.'
        )
    try:
        import keras_hub
    except ImportError as error:
        missing = (
            "DeiTTiny needs KerasHub."
            if error.name == "keras_hub"
            else "DeiTTiny needs KerasHub, which is installed but could not "
            f"be imported: {error}."
        )
        raise ImportError(
            f"{missing} Install it with `pip install keras-wake[hub]`."
        ) from error

    hidden_dim = HEAD_WIDTH * num_heads
    images = keras.Input(input_shape, name="images")
    x = _blocks.normalization(input_shape[-1], mean, std)(images)
    tokens = keras_hub.models.DeiTBackbone(
        image_shape=input_shape,
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

"""The networks by name, and images augmented by KerasCV."""

import dataclasses
from typing import Any

import keras

import keras_wake as kw


def network(
    name: str, classes: int, shape: tuple[int, ...], **options: Any
) -> keras.Model:
    """The classifier with a name in `flags.MODELS`, with its options."""
    if name == "small" and shape[0] < 16:
        options |= {"widths": (32, 64, 128), "strides": (1, 2, 1)}
    make = {
        "small": kw.models.SmallCNN,
        "preact_resnet18": kw.models.PreActResNet18,
        "wide_resnet28_10": kw.models.WideResNet28_10,
        "wide_resnet34_10": kw.models.WideResNet34_10,
        "deit_tiny": kw.models.DeiTTiny,
        "keras_cv_resnet18": keras_cv_resnet18,
    }[name]
    return make(classes, shape, **options)


def import_keras_cv(flag: str) -> Any:
    """KerasCV, or an error that says why it cannot be used."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{flag}: KerasCV is used on the TensorFlow backend. Received: "
            f"the {backend} backend. Set KERAS_BACKEND=tensorflow."
        )
    try:
        import keras_cv
    except ImportError as error:
        raise ImportError(
            f"{flag} needs KerasCV. Install it: pip install -e '.[cv]'. "
            f"({error})"
        ) from error
    return keras_cv


def keras_cv_resnet18(classes: int, shape: tuple[int, ...]) -> keras.Model:
    """A ResNet18V2 of KerasCV between a rescaling and a linear head.

    Written out, because `ResNet18V2Backbone` fetches its configuration.
    """
    keras_cv = import_keras_cv("--model keras_cv_resnet18")
    images = keras.Input(shape)
    x = keras.layers.Rescaling(2.0, -1.0)(images)
    x = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        input_shape=shape,
        block_type="basic_block",
    )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(classes, name="head")(x))


def with_rand_augment(splits: Any, seed: int) -> Any:
    """The splits, with RandAugment of KerasCV after the usual augmentation.

    RandAugment draws from its own generator, so a resumed run sees other random
    numbers than a run without a break.
    """
    import tensorflow as tf

    if splits.input_shape[-1] != 3:
        raise ValueError(
            "--augment keras_cv: RandAugment is for images with three "
            f"channels. Received: images of shape {splits.input_shape}."
        )
    keras_cv = import_keras_cv("--augment keras_cv")
    layer = keras_cv.layers.RandAugment(
        value_range=(0, 1), augmentations_per_image=2, seed=seed
    )

    def augment(x: Any, y: Any) -> tuple[Any, Any]:
        return tf.clip_by_value(layer(x, training=True), 0.0, 1.0), y

    # One batch at a time: prefetched ones would be counted before they come.
    train = splits.train.map(augment)
    train.epoch_counter = splits.train.epoch_counter
    return dataclasses.replace(splits, train=train)

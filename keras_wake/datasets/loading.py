"""`load`: a data set by name, split, shuffled and augmented.

A new data set is one file with a function that opens it, and one line in
`_OPENERS`; a data set outside of this package is added with `register`.
"""

import numbers
from collections.abc import Callable
from typing import TypeAlias

import keras

from keras_wake.datasets import tensorflow_pipeline
from keras_wake.datasets.augmentation import AUGMENTATIONS
from keras_wake.datasets.augmentation import CROP_PADDING
from keras_wake.datasets.cifar import open_cifar10
from keras_wake.datasets.cifar import open_cifar100
from keras_wake.datasets.digits import open_digits
from keras_wake.datasets.folder import open_folder
from keras_wake.datasets.numpy_pipeline import EpochCounter
from keras_wake.datasets.numpy_pipeline import ImageBatches
from keras_wake.datasets.numpy_pipeline import TrainingBatches
from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import Source
from keras_wake.datasets.splits import choose
from keras_wake.datasets.splits import Splits
from keras_wake.datasets.tiny_imagenet import open_tiny_imagenet
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset

LABEL_MODES = ("int", "categorical")

# From `data_dir` and `image_size`, as `load` is given them, to the source.
Opener: TypeAlias = Callable[[DataDir, ImageSize], Source]

_OPENERS: dict[str, Opener] = {
    "digits": open_digits,
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "tiny_imagenet": open_tiny_imagenet,
    "folder": open_folder,
}


def load(
    name: str,
    *,
    data_dir: DataDir = None,
    batch_size: int = 128,
    drop_remainder: bool | None = None,
    validation_split: float | int = 0.1,
    limit: int | None = None,
    test_limit: int | None = None,
    image_size: ImageSize = None,
    augment: str | None = None,
    cutmix: float | None = None,
    seed: int = 0,
    initial_epoch: int = 0,
    label_mode: str | None = None,
) -> Splits:
    """Loads images for training, validation and test.

    The validation images are taken from the training data, so the best epoch
    can be chosen without looking at the test set. All samples keep the
    proportions of the classes and depend on `seed` alone. Images are kept in
    memory as uint8.

    Args:
        name: The data set:
            "digits", scikit-learn's 8x8 grey digits, which need no download;
            "cifar10" and "cifar100", read from `data_dir` where that has
            the layout of "folder", else through TensorFlow Datasets, which
            needs TensorFlow on every backend;
            "tiny_imagenet", read from `data_dir`, the folder
            `tiny-imagenet-200` of its archive: the official validation
            images are the test images here, because the official test
            images have no labels;
            "folder", image files in `data_dir/train/<class>/` and
            `data_dir/test/<class>/`, labelled in the alphabetical order of
            the class names, and read as torchvision's `ImageFolder` reads
            them;
            or a name given to `keras_wake.datasets.register`.
        data_dir: Folder of the data. Defaults to `None`, which for CIFAR is
            the folder of TensorFlow Datasets.
        batch_size: Images per batch, of all devices and processes together;
            the last one of a pass may be smaller. On JAX with several
            devices it must be a multiple of their number. Defaults to `128`.
        drop_remainder: Whether each epoch of training leaves out the images
            that do not fill a batch, which are others in each epoch. XLA
            compiles the whole step once more for a smaller batch. Defaults
            to `None`: where steps are compiled by XLA (on JAX, and on
            TensorFlow with a GPU or TPU) they are left out, unless they are
            more than a tenth of the images. Validation and test always have
            all images.
        validation_split: Part of the training data set aside for
            validation: a fraction below 1, or an integer number of images.
            With 0 there are none. Defaults to `0.1`.
        limit: Number of training images to use, of those that validation
            leaves. Defaults to `None`, which is all.
        test_limit: Number of test images to use. Defaults to `None`, all.
        image_size: `(height, width)` to which images read from files are
            resized. Defaults to `None`: they must all have one size.
        augment: "crop_flip", the published one (random crop after reflecting
            4 pixels at the edges, horizontal flip with probability 1/2),
            "flip" or "none". Defaults to `None`: "none" for digits, else
            "crop_flip".
        cutmix: α of CutMix (Yun et al. 2019), above 0 (published: 1.0). In
            each training image a box is replaced by the same part of another
            one, and the labels are mixed in proportion: they are float32
            `(batch, num_classes)`, one-hot for validation and test, whose
            images are not mixed. Defaults to `None`, for no CutMix.
        seed: Decides on samples, order, augmentation and CutMix, and to the
            same effect on every backend and for any batch size, number of
            devices or processes. Defaults to `0`.
        initial_epoch: Epoch of the first pass over the training images, for
            a resumed run to see what it would have seen without a break.
            Defaults to `0`.
        label_mode: "int" for int32 labels, "categorical" for one-hot
            float32, in all three data sets. Defaults to `None`: "categorical"
            with `cutmix`, else "int".

    Returns:
        `Splits` with the data sets `train`, `validation` and `test`, which
        yield float32 images in [0, 1] and labels: `tf.data.Dataset`s on the
        TensorFlow backend, else `keras.utils.PyDataset`s of NumPy arrays.

    Raises:
        ValueError: An argument or the content of a folder is not usable.
        TypeError: An argument has the wrong type.
        FileNotFoundError: A folder is missing.
        ImportError: The package that provides the data is not installed.
        RuntimeError: The data are not there and cannot be downloaded.

    Example:

    ```python
    import keras_wake as kw

    splits = kw.datasets.load("digits", batch_size=64)
    images, labels = next(iter(splits.train))  # (64, 8, 8, 1), (64,)
    ```
    """
    open_source = _OPENERS[validate.one_of(_OPENERS, name=name)]
    batch_size = validate.integer(1, batch_size=batch_size)
    if drop_remainder is not None:
        validate.boolean(drop_remainder=drop_remainder)
    if limit is not None:
        limit = validate.integer(1, limit=limit)
    if test_limit is not None:
        test_limit = validate.integer(1, test_limit=test_limit)
    if image_size is not None:
        if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
            raise ValueError(
                "`image_size` must be (height, width). "
                f"Received: image_size={image_size!r}."
            )
        for side in image_size:
            validate.integer(1, image_size=side)
    if augment is not None:
        validate.one_of(AUGMENTATIONS, augment=augment)
    if cutmix is not None:
        cutmix = validate.positive("Pass None for no CutMix.", cutmix=cutmix)
    seed = validate.integer(0, seed=seed)
    initial_epoch = validate.integer(0, initial_epoch=initial_epoch)
    one_hot = _has_one_hot_labels(label_mode, cutmix)
    if isinstance(validation_split, numbers.Integral):
        validate.integer(0, validation_split=validation_split)
    else:
        hint = "Or pass an integer number of images."
        validate.fraction(hint, validation_split=validation_split)

    source = open_source(data_dir, image_size)
    chosen = choose(source, validation_split, limit, test_limit, seed)
    arrays, skipped = source.read(chosen)
    augment = augment or source.default_augment
    input_shape = arrays["train"].images.shape[1:]
    if augment == "crop_flip" and min(input_shape[:2]) <= CROP_PADDING:
        raise ValueError(
            f"augment='crop_flip' reflects {CROP_PADDING} pixels and "
            f"needs larger images. Received: input_shape={input_shape}. "
            "Pass augment='flip' or 'none'."
        )
    classes = len(source.class_names) if one_hot else None
    epochs = EpochCounter(initial_epoch)
    batches: dict[str, Dataset] = {
        split: ImageBatches(data, batch_size, classes)
        for split, data in arrays.items()
    }
    batches["train"] = TrainingBatches(
        arrays["train"],
        batch_size,
        classes,
        augment,
        seed,
        epochs,
        cutmix,
        drop_remainder,
    )
    # Refuses a batch size that does not fit here, not only in `fit`.
    len(batches["train"])
    if keras.backend.backend() == "tensorflow":
        batches = {
            split: tensorflow_pipeline.as_dataset(each)
            for split, each in batches.items()
        }
    return Splits(
        train=batches["train"],
        validation=batches.get("validation"),
        test=batches["test"],
        class_names=source.class_names,
        input_shape=input_shape,
        train_size=len(arrays["train"]),
        validation_size=len(arrays.get("validation", ())),
        test_size=len(arrays["test"]),
        skipped=skipped,
        _arrays=arrays,
        _epoch=epochs,
    )


def register(name: str, open_source: Opener) -> None:
    """Adds a data set that `load` finds by its name.

    Args:
        name: Its name. It must not be taken.
        open_source: A function `(data_dir, image_size) -> Source`. `load`
            calls it with its arguments of these names, which may be None.

    Raises:
        ValueError: If there is a data set of this name.
        TypeError: If `name` is no text or `open_source` no function.

    Example:

    ```python
    import numpy as np
    import keras_wake as kw

    def open_squares(data_dir, image_size):
        images = np.zeros((100, 8, 8, 1), "uint8")
        labels = np.arange(100) % 2
        images[labels == 1, 2:6, 2:6] = 255
        data = kw.datasets.ImageArrays(images, labels)
        return kw.datasets.Source.from_arrays(data, data, ("empty", "square"))

    kw.datasets.register("squares", open_squares)
    splits = kw.datasets.load("squares")
    ```
    """
    if not isinstance(name, str) or not callable(open_source):
        raise TypeError(
            "`register` takes a name and a function (data_dir, image_size) "
            f"-> Source. Received: {name!r} and {open_source!r}."
        )
    if name in _OPENERS:
        raise ValueError(
            f"There is a data set of the name {name!r}. Choose another one "
            f"than {', '.join(map(repr, _OPENERS))}."
        )
    _OPENERS[name] = open_source


def _has_one_hot_labels(label_mode: str | None, cutmix: float | None) -> bool:
    if label_mode is not None:
        validate.one_of(LABEL_MODES, label_mode=label_mode)
    # Labels of one form: Keras decides at the first batch, which is mixed,
    # what "accuracy" means, and counts wrongly where others are numbers.
    if label_mode == "int" and cutmix is not None:
        raise ValueError(
            "CutMix makes soft labels, which are no class numbers. Received: "
            f"label_mode='int', cutmix={cutmix}. Leave `label_mode` out."
        )
    return label_mode == "categorical" or cutmix is not None

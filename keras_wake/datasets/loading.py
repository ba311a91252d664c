"""`load`: a data set by name, split, shuffled and augmented."""

import numbers
import os

import keras

from keras_wake.datasets import catalogue
from keras_wake.datasets import tensorflow_pipeline
from keras_wake.datasets.augmentation import AUGMENTATIONS
from keras_wake.datasets.augmentation import CROP_PADDING
from keras_wake.datasets.numpy_pipeline import EpochCounter
from keras_wake.datasets.numpy_pipeline import EvaluationBatches
from keras_wake.datasets.numpy_pipeline import TrainingBatches
from keras_wake.datasets.splits import choose
from keras_wake.datasets.splits import Splits
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset

LABEL_MODES = ("int", "categorical")
MAX_SEED = 2**63 - 1


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    batch_size: int = 128,
    validation_split: float | int = 0.1,
    limit: int | None = None,
    test_limit: int | None = None,
    image_size: tuple[int, int] | None = None,
    augment: str | None = None,
    cutmix: float | None = None,
    seed: int = 0,
    initial_epoch: int = 0,
    label_mode: str | None = None,
) -> Splits:
    """Loads images for training, validation and test.

    The validation images are taken from the training data and the test
    images are not touched, so the best epoch can be chosen without looking
    at the test set. All samples keep the proportions of the classes and
    depend on `seed` alone. Images are kept in memory as uint8.

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
            the class names. Files are read as torchvision's `ImageFolder`
            reads them, and a warning counts what is left out;
            or a name given to `keras_wake.datasets.register`.
        data_dir: Folder of the data. Defaults to None, which for CIFAR is
            the folder of TensorFlow Datasets.
        batch_size: Images per batch, of all devices and processes together;
            the last one of a pass may be smaller. On JAX with several
            devices it must be a multiple of their number. Defaults to 128.
        validation_split: Part of the training data set aside for
            validation: a fraction below 1, or an integer number of images.
            With 0 there are none. Defaults to 0.1.
        limit: Number of training images to use, of those that validation
            leaves. Defaults to None, which is all.
        test_limit: Number of test images to use. Defaults to None, all.
        image_size: `(height, width)` to which images read from files are
            resized. Defaults to None: they must all have one size.
        augment: "crop_flip", the published one (random crop after reflecting
            4 pixels at the edges, horizontal flip with probability 1/2),
            "flip" or "none". Defaults to None: "none" for digits, else
            "crop_flip".
        cutmix: α of CutMix (Yun et al. 2019), above 0 (published: 1.0). In
            each training image a box is replaced by the same part of another
            one, and the labels are mixed in proportion. Box and partner are
            drawn for each image from seed and epoch alone, so a resumed run,
            and other batch sizes, devices or processes, see the same mixed
            images. Labels are then float32 `(batch, num_classes)`, one-hot
            for validation and test, whose images are not mixed. Defaults to
            None, for no CutMix.
        seed: Decides on samples, order, augmentation and CutMix, and to the
            same effect on every backend. Defaults to 0.
        initial_epoch: Epoch of the first pass over the training images; a
            resumed run that passes it sees the batches that the run would
            have seen without a break. Defaults to 0.
        label_mode: "int" for int32 labels, "categorical" for one-hot
            float32, in all three data sets. Defaults to None: "categorical"
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
    open_source = catalogue.opener(name)
    batch_size = validate.integer(1, batch_size=batch_size)
    limit = _optional_count(limit=limit)
    test_limit = _optional_count(test_limit=test_limit)
    image_size = _checked_image_size(image_size)
    if augment is not None:
        validate.one_of(AUGMENTATIONS, augment=augment)
    if cutmix is not None:
        cutmix = validate.positive("Pass None for no CutMix.", cutmix=cutmix)
    seed = _checked_seed(seed)
    initial_epoch = validate.integer(0, initial_epoch=initial_epoch)
    label_mode = _checked_label_mode(label_mode, cutmix)
    _checked_split(validation_split)

    source = open_source(data_dir, image_size)
    chosen = choose(
        source.train_labels,
        source.test_labels,
        validation_split,
        limit,
        test_limit,
        seed,
    )
    arrays, skipped = source.read(chosen)
    augment = source.default_augment if augment is None else augment
    input_shape = arrays["train"].images.shape[1:]
    _check_crop(augment, input_shape)
    one_hot = len(source.class_names) if label_mode == "categorical" else None
    epoch = EpochCounter(initial_epoch)
    train = TrainingBatches(
        arrays["train"], batch_size, one_hot, augment, seed, epoch, cutmix
    )
    # Refuses a batch size that devices cannot share here, not only in `fit`.
    len(train)
    others = {
        split: EvaluationBatches(data, batch_size, one_hot)
        for split, data in arrays.items()
        if split != "train"
    }
    prepared: dict[str, Dataset] = {"train": train, **others}
    if keras.backend.backend() == "tensorflow":
        prepared = {
            split: tensorflow_pipeline.training_dataset(train)
            if split == "train"
            else tensorflow_pipeline.evaluation_dataset(others[split])
            for split in prepared
        }
    return Splits(
        train=prepared["train"],
        validation=prepared.get("validation"),
        test=prepared["test"],
        class_names=source.class_names,
        input_shape=input_shape,
        train_size=len(arrays["train"]),
        validation_size=len(arrays.get("validation", ())),
        test_size=len(arrays["test"]),
        skipped=skipped,
        _arrays=arrays,
        _epoch=epoch,
    )


def _checked_label_mode(label_mode: str | None, cutmix: float | None) -> str:
    if label_mode is None:
        return "int" if cutmix is None else "categorical"
    validate.one_of(LABEL_MODES, label_mode=label_mode)
    # Labels of one form: Keras decides at the first batch, which is mixed,
    # what "accuracy" means, and counts wrongly where others are numbers.
    if label_mode == "int" and cutmix is not None:
        raise ValueError(
            "CutMix makes soft labels, which are no class numbers. Received: "
            f"label_mode='int', cutmix={cutmix}. Leave `label_mode` out."
        )
    return label_mode


def _checked_seed(seed: int) -> int:
    seed = validate.integer(0, seed=seed)
    if seed > MAX_SEED:
        raise ValueError(
            f"`seed` must be at most {MAX_SEED}. Received: seed={seed}."
        )
    return seed


def _optional_count(**kwargs: object) -> int | None:
    (value,) = kwargs.values()
    return None if value is None else validate.integer(1, "", **kwargs)


def _checked_image_size(image_size: object) -> tuple[int, int] | None:
    if image_size is None:
        return None
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise ValueError(
            "`image_size` must be (height, width). "
            f"Received: image_size={image_size!r}."
        )
    height, width = (
        validate.integer(1, image_size=side) for side in image_size
    )
    return height, width


def _checked_split(validation_split: float | int) -> None:
    if isinstance(validation_split, numbers.Integral):
        validate.integer(0, validation_split=validation_split)
        return
    fraction = validate.real(validation_split=validation_split)
    if not 0 <= fraction < 1:
        raise ValueError(
            "`validation_split` must be a fraction in [0, 1) or an integer "
            "number of images. "
            f"Received: validation_split={validation_split!r}."
        )


def _check_crop(augment: str, input_shape: tuple[int, ...]) -> None:
    if augment == "crop_flip" and min(input_shape[:2]) <= CROP_PADDING:
        raise ValueError(
            f"augment='crop_flip' reflects {CROP_PADDING} pixels and "
            f"needs larger images. Received: input_shape={input_shape}. "
            "Pass augment='flip' or 'none'."
        )

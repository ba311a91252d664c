"""Where images come from: scikit-learn's digits and TensorFlow Datasets."""

import contextlib
import os
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.sampling import stratified_sample

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DIGITS_TEST_FRACTION = 0.2


class Source(NamedTuple):
    """A data set whose labels are known and whose images may not be read yet.

    Attributes:
        train_labels: `(N,)` labels of the training images.
        test_labels: `(M,)` labels of the test images.
        class_names: Names in the order of the labels.
        default_augment: The augmentation that is usual for it.
        read: From the chosen positions of every split, where "test" counts
            in the test images and all others in the training images, to the
            images of every split and the names of the unreadable files.
    """

    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    default_augment: str
    read: Callable[
        [dict[str, np.ndarray]], tuple[dict[str, ImageArrays], tuple[str, ...]]
    ]


def in_memory(
    train: ImageArrays,
    test: ImageArrays,
    class_names: tuple[str, ...],
    default_augment: str,
) -> Source:
    """A source whose images are all there."""

    def read(
        chosen: dict[str, np.ndarray],
    ) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
        pools = {name: test if name == "test" else train for name in chosen}
        return {
            name: pools[name].take(positions)
            for name, positions in chosen.items()
        }, ()

    return Source(train.labels, test.labels, class_names, default_augment, read)


def digits() -> Source:
    """scikit-learn's 1,797 grey 8x8 digits, one fifth of them for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The data set 'digits' needs scikit-learn. "
            "Install it with `pip install keras-wake[examples]`."
        ) from error
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    data = ImageArrays(images, bunch.target.astype(np.int32), white=16)
    # One split for everybody: results with different seeds are compared on
    # the same test images.
    test = stratified_sample(
        data.labels,
        round(DIGITS_TEST_FRACTION * len(data)),
        np.random.default_rng(0),
    )
    train = np.setdiff1d(np.arange(len(data)), test)
    class_names = tuple(str(name) for name in bunch.target_names)
    return in_memory(data.take(train), data.take(test), class_names, "none")


def _read_all(dataset: Any) -> ImageArrays:
    batches = list(dataset.batch(1000).as_numpy_iterator())
    return ImageArrays(
        np.concatenate([batch["image"] for batch in batches]),
        np.concatenate([batch["label"] for batch in batches]).astype(np.int32),
    )


def from_tfds(name: str, data_dir: str | os.PathLike | None) -> Source:
    """CIFAR-10 or CIFAR-100 through TensorFlow Datasets."""
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data set {name!r} needs tensorflow-datasets and TensorFlow. "
            "Install them with `pip install keras-wake[tensorflow,examples]`, "
            "or pass `data_dir`, a folder with train/<class>/ and "
            "test/<class>/."
        ) from error
    if keras.backend.backend() != "tensorflow":
        # Here TensorFlow only reads files, and must not take all the memory
        # of the accelerators. It refuses once it runs: then it has its share.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    builder = tfds.builder(name, data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except ImportError as error:
        # Seen with 4.9.10, which does not declare importlib_resources.
        raise ImportError(
            f"TensorFlow Datasets needs the package {error.name!r} to prepare "
            f"{name!r}. Install it with `pip install {error.name}`."
        ) from error
    except Exception as error:  # The downloader has no common error class.
        raise RuntimeError(
            f"The data set {name!r} is not on this machine and TensorFlow "
            f"Datasets could not prepare it in {builder.data_dir} "
            f"({type(error).__name__}: {str(error)[:200]}). Check the network "
            "connection, or pass `data_dir`, a folder with train/<class>/ "
            "and test/<class>/."
        ) from error
    train, test = (
        _read_all(builder.as_dataset(split=split, shuffle_files=False))
        for split in ("train", "test")
    )
    class_names = CIFAR10_CLASSES
    if name != "cifar10":
        class_names = tuple(builder.info.features["label"].names)
    return in_memory(train, test, class_names, "crop_flip")

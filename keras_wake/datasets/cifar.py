"""CIFAR-10 and CIFAR-100, from a folder or through TensorFlow Datasets."""

import contextlib
import functools

import keras
import numpy as np

from keras_wake.datasets.folder import check_exists
from keras_wake.datasets.folder import open_folder
from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import refuse_files
from keras_wake.datasets.source import Source
from keras_wake.utils.types import Dataset

# In the order of the labels. TensorFlow Datasets knows the names only once
# it has read them from the downloaded files.
CLASS_NAMES = {
    "cifar10": tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    ),
    "cifar100": tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
        bowl boy bridge bus butterfly camel can castle caterpillar cattle
        chair chimpanzee clock cloud cockroach couch crab crocodile cup
        dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
        maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
        otter palm_tree pear pickup_truck pine_tree plain plate poppy
        porcupine possum rabbit raccoon ray road rocket rose sea seal shark
        shrew skunk skyscraper snail snake spider squirrel streetcar
        sunflower sweet_pepper table tank telephone television tiger tractor
        train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()
    ),
}


def _open(name: str, data_dir: DataDir, image_size: ImageSize) -> Source:
    """Opens a data set of CIFAR.

    `data_dir` is a folder with train/<class>/ and test/<class>/, or that of
    TensorFlow Datasets.
    """
    if data_dir is not None and (check_exists(data_dir) / "train").is_dir():
        source = open_folder(data_dir, image_size)
        expected, count = len(CLASS_NAMES[name]), len(source.class_names)
        if count != expected:
            raise ValueError(
                f"{name} has {expected} classes, but {data_dir} has {count}. "
                "Use load('folder', ...) for other data."
            )
        return source
    refuse_files(name, image_size=image_size)
    return _from_tfds(name, data_dir)


open_cifar10 = functools.partial(_open, "cifar10")
open_cifar100 = functools.partial(_open, "cifar100")


def _from_tfds(name: str, data_dir: DataDir) -> Source:
    """Prepares and reads a data set of TensorFlow Datasets."""
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
    except ImportError:
        raise  # Of a package that TensorFlow Datasets does not declare.
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
    return Source.from_arrays(train, test, CLASS_NAMES[name], "crop_flip")


def _read_all(dataset: Dataset) -> ImageArrays:
    batches = list(dataset.batch(1000).as_numpy_iterator())
    return ImageArrays(
        np.concatenate([batch["image"] for batch in batches]),
        np.concatenate([batch["label"] for batch in batches]).astype(np.int32),
    )

"""The names of the data sets, and where the images of each come from."""

import os

from keras_wake.datasets import cifar
from keras_wake.datasets import folder
from keras_wake.datasets import sources
from keras_wake.datasets import tiny_imagenet

DATASETS = ("digits", "cifar10", "cifar100", "tiny_imagenet", "folder")


def open_source(
    name: str,
    data_dir: str | os.PathLike | None,
    image_size: tuple[int, int] | None,
) -> sources.Source:
    """Opens a data set by its name.

    Args:
        name: One of `DATASETS`.
        data_dir: Its folder, or None.
        image_size: `(height, width)` to resize to, or None.

    Returns:
        The source.

    Raises:
        ValueError: The arguments do not go together, or the content of the
            folder is not usable.
        FileNotFoundError: A folder or file is missing.
        ImportError: The package that provides the data is not installed.
        RuntimeError: The data are not there and cannot be downloaded.
    """
    if data_dir is None:
        _check_needs_no_folder(name)
    elif name == "digits":
        raise ValueError(
            "The digits are part of scikit-learn and have no `data_dir`. "
            f"Received: data_dir={str(data_dir)!r}."
        )
    else:
        folder.check_exists(data_dir)
        if name == "tiny_imagenet":
            return tiny_imagenet.open_tiny_imagenet(data_dir, image_size)
        if name == "folder" or folder.has_layout(data_dir):
            return _open_folder(name, data_dir, image_size)
    if image_size is not None:
        raise ValueError(
            "`image_size` is only for folders of images. "
            f"Received: image_size={image_size!r} for {name!r}."
        )
    if name == "digits":
        return sources.digits()
    return cifar.from_tfds(name, data_dir)


def _check_needs_no_folder(name: str) -> None:
    if name == "folder":
        raise ValueError(
            "`data_dir` is needed to load a folder of images. "
            "Received: data_dir=None."
        )
    if name == "tiny_imagenet":
        raise ValueError(
            "`data_dir` is needed to load Tiny-ImageNet: unpack "
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip and pass the "
            "folder tiny-imagenet-200. Received: data_dir=None."
        )


def _open_folder(
    name: str,
    data_dir: str | os.PathLike,
    image_size: tuple[int, int] | None,
) -> sources.Source:
    source = folder.open_folder(data_dir, image_size)
    count = len(source.class_names)
    expected = len(cifar.CLASS_NAMES.get(name, source.class_names))
    if count != expected:
        raise ValueError(
            f"{name} has {expected} classes, but {data_dir} has {count}. Use "
            "load('folder', ...) for other data."
        )
    return source

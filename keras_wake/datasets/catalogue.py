"""The names of the data sets, and the function that opens each.

A new data set is one file with such a function, and one line in `_OPENERS`; a
data set outside of this package is added with `register`.
"""

from collections.abc import Callable
from typing import TypeAlias

from keras_wake.datasets.cifar import open_cifar10
from keras_wake.datasets.cifar import open_cifar100
from keras_wake.datasets.digits import open_digits
from keras_wake.datasets.folder import open_folder
from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import Source
from keras_wake.datasets.tiny_imagenet import open_tiny_imagenet
from keras_wake.utils import validate

# From `data_dir` and `image_size`, as `load` is given them, to the source.
Opener: TypeAlias = Callable[[DataDir, ImageSize], Source]

_OPENERS: dict[str, Opener] = {
    "digits": open_digits,
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "tiny_imagenet": open_tiny_imagenet,
    "folder": open_folder,
}


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


def opener(name: str) -> Opener:
    """The function that opens the data set of this name."""
    return _OPENERS[validate.one_of(_OPENERS, name=name)]

"""What a data set is: its labels, its names, and how its images are read."""

import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple
from typing import TypeAlias

import numpy as np

from keras_wake.utils.types import Array

DataDir: TypeAlias = str | os.PathLike | None
# (height, width)
ImageSize: TypeAlias = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images in memory and their labels.

    Attributes:
        images: Unsigned 8-bit integers `(N, H, W, C)`.
        labels: `(N,)` class numbers.
        white: The pixel value that stands for 1.0. Defaults to `255`.
    """

    images: Array
    labels: Array
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.images.shape[1], self.images.shape[2]

    def take(self, positions: Array) -> "ImageArrays":
        """The images at `positions`, in that order."""
        return dataclasses.replace(
            self, images=self.images[positions], labels=self.labels[positions]
        )


def unit_range(pixels: Array, white: int) -> Array:
    """Pixel values as float32 in [0, 1]."""
    return np.divide(pixels, np.float32(white), dtype=np.float32)


# The images of every split, and the names of the files that are unreadable.
Reading: TypeAlias = tuple[dict[str, ImageArrays], tuple[str, ...]]


class Source(NamedTuple):
    """A data set whose labels are known and whose images may not be read yet.

    `Source.from_arrays` makes one of images in memory.

    Attributes:
        train_labels: `(N,)` labels of the training images.
        test_labels: `(M,)` labels of the test images.
        class_names: Names in the order of the labels.
        default_augment: The augmentation if `load` is given none.
        read: Reads the chosen images. It is given the positions of every
            split, which for "test" count in the test images and else in the
            training images. It returns the images of every split, as
            `keras_wake.datasets.ImageArrays`, and the names of the files that
            it could not read.
    """

    train_labels: Array
    test_labels: Array
    class_names: tuple[str, ...]
    default_augment: str
    read: Callable[[dict[str, Array]], Reading]

    @classmethod
    def from_arrays(
        cls,
        train: ImageArrays,
        test: ImageArrays,
        class_names: tuple[str, ...],
        default_augment: str = "none",
    ) -> "Source":
        """A source whose images are in memory."""

        def read(chosen: dict[str, Array]) -> Reading:
            return {
                name: (test if name == "test" else train).take(positions)
                for name, positions in chosen.items()
            }, ()

        return cls(
            train.labels, test.labels, class_names, default_augment, read
        )


def refuse_files(data_set: str, **given: object) -> None:
    """Refuses arguments that are for images in files."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is only for folders of images. "
                f"Received: {name}={value!r} for {data_set!r}."
            )

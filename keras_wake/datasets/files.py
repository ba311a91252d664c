"""Reads image files into one array, whatever folders they are in."""

import collections
import pathlib
import stat
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_wake.datasets.source import ImageArrays
from keras_wake.utils.types import Array

IMAGE_SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
# Image files that are left out, with a warning that counts them.
OTHER_SUFFIXES = (
    *(".apng", ".avif", ".dcm", ".dds", ".exr", ".gif", ".heic", ".heif"),
    *(".ico", ".jp2", ".jxl", ".pbm", ".pcx", ".psd", ".svg", ".tga"),
)
# The warnings of what is ignored in an image, after the number of images.
ALPHA = (
    "have transparent pixels. Their colours are read as they are stored, "
    "without a background"
)
ORIENTATION = (
    "have an orientation in their EXIF data, which is not applied: they are "
    "read as they are stored"
)
ORIENTATION_TAG = 0x0112
PROGRESS_FROM = 3000
NAMES_IN_WARNING = 10


class Files(NamedTuple):
    """Image files and their labels, int32 `(N,)`.

    `left_out` are image files of the same folders in other formats.
    """

    paths: list[pathlib.Path]
    labels: Array
    left_out: tuple[pathlib.Path, ...] = ()

    def take(self, positions: Array) -> "Files":
        """The files at `positions`, in that order."""
        paths = [self.paths[position] for position in positions]
        return Files(paths, self.labels[positions])


def mixed(paths: list[pathlib.Path], labels: list[int]) -> Files:
    """The files of all classes, in a mixed order that is always the same.

    Otherwise, the first images of a split would all be of one class.
    """
    order = np.random.default_rng(0).permutation(len(paths))
    return Files(paths, np.asarray(labels, np.int32)).take(order)


def shortened_list(items: Sequence) -> str:
    """The first items as text, and how many more there are."""
    shown = "; ".join(str(item) for item in items[:NAMES_IN_WARNING])
    more = len(items) - NAMES_IN_WARNING
    return f"{shown}; and {more} more" if more > 0 else shown


def warn_of_other_formats(paths: Sequence[pathlib.Path]) -> None:
    """One warning that counts the image files that are not read."""
    if not paths:
        return
    counts = collections.Counter(path.suffix.lower() for path in paths)
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(counts.items()))
    warnings.warn(
        f"Left out {len(paths)} image file(s) in formats that are not read "
        f"({kinds}): {shortened_list(paths)}. Convert them to one of "
        f"{', '.join(IMAGE_SUFFIXES)}.",
        stacklevel=2,
    )


def check_pillow() -> None:
    """Raises an `ImportError` that says what to install."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Folders of images are read with Pillow. Install it with "
            "`pip install pillow`."
        ) from error


class Decoded(NamedTuple):
    """uint8 `(H, W, 1)` or `(H, W, 3)`, and what was ignored in the image."""

    pixels: Array
    ignored: tuple[str, ...] = ()


def _decode(
    path: pathlib.Path, image_size: tuple[int, int] | None
) -> Decoded | str:
    """The image, or why it is unreadable."""
    from PIL import Image

    try:
        # To open a pipe would wait for somebody to write into it.
        if not stat.S_ISREG(path.stat().st_mode):
            return "no regular file"
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                return f"mode {file.mode} is not 8 bits per channel"
            # A camera's JPEG may hold a preview beside the image.
            frames = getattr(file, "n_frames", 1)
            if frames > 1 and file.format != "MPO":
                return f"{frames} images in one file"
            ignored = []
            exif = "exif" in file.info and file.getexif()
            if exif and exif.get(ORIENTATION_TAG, 1) != 1:
                ignored.append(ORIENTATION)
            is_grey = file.mode in ("1", "L", "LA")
            image: Image.Image = file
            if "A" in file.getbands() or "transparency" in file.info:
                image = file.convert("RGBA")
                if np.asarray(image)[..., 3].min() < 255:
                    ignored.append(ALPHA)
            image = image.convert("L" if is_grey else "RGB")
            if image_size is not None:
                height, width = image_size
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.atleast_3d(np.asarray(image))
            return Decoded(pixels, tuple(ignored))
    except Exception as error:
        # Decoders raise many kinds of errors for damaged files.
        return f"{type(error).__name__}: {error}"


class _Store:
    """Images of one size, in one array that is made with the first of them.

    A list of images, stacked in the end, would take the memory twice.

    Args:
        capacity: Number of images at most.
        channels: Smallest number of channels.
    """

    def __init__(self, capacity: int, channels: int):
        self._capacity = capacity
        self._channels = channels
        self._first: pathlib.Path | None = None
        self.pixels: Array = np.empty((0, 0, 0, 0), np.uint8)
        self.count = 0

    def add(self, image: Array, path: pathlib.Path) -> None:
        """Appends an image `(H, W, C)`; a grey one fills all channels."""
        size, channels = image.shape[:2], image.shape[2]
        if self._first is None:
            self._first = path
        elif size != self.pixels.shape[1:3]:
            raise ValueError(
                "All images must have one size. Received (height, width) = "
                f"{self.pixels.shape[1:3]} in {self._first} and {size} in "
                f"{path}. Pass `image_size=(height, width)` to resize them."
            )
        if channels > self.pixels.shape[3]:
            before = self.pixels[: self.count]
            shape = self._capacity, *size, max(channels, self._channels)
            self.pixels = np.empty(shape, np.uint8)
            if self.count:
                self.pixels[: self.count] = before
        self.pixels[self.count] = image
        self.count += 1


def read_files(
    parts: dict[str, Files],
    class_names: tuple[str, ...],
    image_size: tuple[int, int] | None,
    colour: bool = False,
) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
    """Reads the files of all splits, one by one.

    Args:
        parts: The files of every split.
        class_names: For messages.
        image_size: `(height, width)` to resize to, or None.
        colour: Whether the images have three channels even if all are grey.
            Defaults to `False`: then they have one.

    Returns:
        The images of every split, parts of one array, and the names of the
        unreadable files.

    Raises:
        ValueError: The images have several sizes, or none of a class that
            was chosen for a split can be read.
    """
    import keras

    total = sum(len(files.paths) for files in parts.values())
    progress = keras.utils.Progbar(total) if total >= PROGRESS_FROM else None
    store = _Store(total, channels=3 if colour else 1)
    problems: dict[pathlib.Path, str] = {}
    ignored: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    kept: dict[str, tuple[slice, Array]] = {}
    done = 0
    # One by one: for small images threads only add to the time.
    for name, files in parts.items():
        first = store.count
        readable = []
        for position, path in enumerate(files.paths):
            result = _decode(path, image_size)
            if isinstance(result, str):
                problems[path] = result
            else:
                store.add(result.pixels, path)
                readable.append(position)
                for reason in result.ignored:
                    ignored[reason].append(path)
            done += 1
            if progress and (done % 500 == 0 or done == total):
                progress.update(done)
        labels = files.labels[np.asarray(readable, int)]
        kept[name] = slice(first, store.count), labels
    if problems:
        texts = [f"{path} ({problem})" for path, problem in problems.items()]
        warnings.warn(
            f"Skipped {len(problems)} unreadable image(s): "
            f"{shortened_list(texts)}. All are listed in `skipped`.",
            stacklevel=2,
        )
    for reason, paths in ignored.items():
        warnings.warn(
            f"{len(paths)} image(s) {reason}: {shortened_list(paths)}.",
            stacklevel=2,
        )
    for name, (_, labels) in kept.items():
        _check_classes_left(parts[name], labels, class_names)
    return {
        name: ImageArrays(store.pixels[part], labels)
        for name, (part, labels) in kept.items()
    }, tuple(str(path) for path in problems)


def _check_classes_left(
    files: Files, labels: Array, class_names: tuple[str, ...]
) -> None:
    for label in np.setdiff1d(files.labels, labels):
        folder = files.paths[np.flatnonzero(files.labels == label)[0]].parent
        raise ValueError(
            f"None of the images of the class {class_names[label]!r} that "
            f"were chosen from {folder} can be read."
        )

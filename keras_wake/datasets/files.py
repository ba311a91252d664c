"""Image files into one array, whatever the layout of their folders is."""

import collections
import pathlib
import stat
import warnings
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_wake.datasets.source import ImageArrays

IMAGE_SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
# Image files that are left out, with a warning that counts them.
OTHER_SUFFIXES = (
    *(".apng", ".avif", ".dcm", ".dds", ".exr", ".gif", ".heic", ".heif"),
    *(".ico", ".jp2", ".jxl", ".pbm", ".pcx", ".psd", ".svg", ".tga"),
)
# What is ignored when an image is read: the text of the warning after its
# count.
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

    Beside them, the image files of the same folders in formats that are not
    read.
    """

    paths: list[pathlib.Path]
    labels: np.ndarray
    left_out: tuple[pathlib.Path, ...] = ()

    def take(self, positions: np.ndarray) -> "Files":
        """The files at `positions`, in that order."""
        paths = [self.paths[position] for position in positions]
        return Files(paths, self.labels[positions])


def mixed(paths: list[pathlib.Path], labels: list[int]) -> Files:
    """The files of all classes, mixed.

    A fixed permutation, so that the first images of a split are not all of
    one class, and are the same whatever the seed.
    """
    order = np.random.default_rng(0).permutation(len(paths))
    return Files(paths, np.asarray(labels, np.int32)).take(order)


def shortened_list(items: Sequence[Any]) -> str:
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
    """uint8 `(H, W)` if grey, else `(H, W, 3)`; and what was ignored in it."""

    pixels: np.ndarray
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
            return Decoded(np.asarray(image), tuple(ignored))
    except Exception as error:
        # Decoders raise many kinds of errors for damaged files.
        return f"{type(error).__name__}: {error}"


class _Store:
    """Images of one size, in one array that is there from the first one on.

    A list of images, stacked in the end, would take the memory twice.

    Args:
        capacity: Number of images at most.
        colour: Whether the images have three channels even if all are grey.
    """

    def __init__(self, capacity: int, colour: bool):
        self._capacity = capacity
        self._channels = 3 if colour else 1
        self._pixels = np.empty(0, np.uint8)
        self._first: pathlib.Path | None = None
        self.count = 0

    def add(self, image: np.ndarray, path: pathlib.Path) -> None:
        """Appends an image, `(H, W)` or `(H, W, 3)`."""
        size = image.shape[:2]
        if self._first is None:
            self._first = path
            self._allocate(size, max(self._channels, *image.shape[2:], 1))
        if size != self._pixels.shape[1:3]:
            raise ValueError(
                "All images must have one size. Received (height, width) = "
                f"{self._pixels.shape[1:3]} in {self._first} and {size} in "
                f"{path}. Pass `image_size=(height, width)` to resize them."
            )
        if image.ndim == 3 and self._channels == 1:
            grey = self.taken(slice(self.count))
            self._allocate(size, 3)
            self._pixels[: self.count] = grey
        pixels = image if image.ndim == 3 else image[..., np.newaxis]
        self._pixels[self.count] = pixels
        self.count += 1

    def _allocate(self, size: tuple[int, ...], channels: int) -> None:
        self._channels = channels
        shape = self._capacity, *size, channels
        self._pixels = np.empty(shape, np.uint8)

    def taken(self, part: slice) -> np.ndarray:
        """A part of the images, uint8 `(N, H, W, C)`, not copied."""
        return self._pixels[part]


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
            Defaults to `False`: they have one then.

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
    store = _Store(total, colour)
    problems: dict[pathlib.Path, str] = {}
    ignored: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    kept: dict[str, tuple[slice, np.ndarray]] = {}
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
        _warn_of(problems)
    for reason, paths in ignored.items():
        warnings.warn(
            f"{len(paths)} image(s) {reason}: {shortened_list(paths)}.",
            stacklevel=2,
        )
    for name, (_, labels) in kept.items():
        _check_classes_left(parts[name], labels, class_names)
    return {
        name: ImageArrays(store.taken(part), labels)
        for name, (part, labels) in kept.items()
    }, tuple(str(path) for path in problems)


def _warn_of(problems: dict[pathlib.Path, str]) -> None:
    texts = [f"{path} ({problem})" for path, problem in problems.items()]
    warnings.warn(
        f"Skipped {len(problems)} unreadable image(s): "
        f"{shortened_list(texts)}. All are listed in `skipped`.",
        stacklevel=2,
    )


def _check_classes_left(
    files: Files, labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
    for label in np.setdiff1d(files.labels, labels):
        folder = files.paths[np.flatnonzero(files.labels == label)[0]].parent
        raise ValueError(
            f"None of the images of the class {class_names[label]!r} that "
            f"were chosen from {folder} can be read."
        )

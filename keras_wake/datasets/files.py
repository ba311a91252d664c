"""Reads image files into one array, whatever folders they are in."""

import collections
import pathlib
import stat
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import ImageSize
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
    left_out: Sequence[pathlib.Path] = ()

    def take(self, positions: Array) -> "Files":
        """The files at `positions`, in that order."""
        paths = [self.paths[position] for position in positions]
        return Files(paths, self.labels[positions], self.left_out)


def mixed(
    paths: list[pathlib.Path],
    labels: list[int],
    left_out: Sequence[pathlib.Path] = (),
) -> Files:
    """The files of all classes, in a mixed order that is always the same.

    Otherwise, the first images of a split would all be of one class.
    """
    order = np.random.default_rng(0).permutation(len(paths))
    return Files(paths, np.asarray(labels, np.int32), left_out).take(order)


def warn_of(what: str, items: Sequence, then: str = "") -> None:
    """A warning with the first items, and how many more there are."""
    shown = "; ".join(map(str, items[:NAMES_IN_WARNING]))
    more = len(items) - NAMES_IN_WARNING
    shown += f"; and {more} more" * (more > 0)
    warnings.warn(f"{what}: {shown}.{then}", stacklevel=3)


def _decode(
    path: pathlib.Path, image_size: ImageSize
) -> tuple[Array, list[str]]:
    """The image, uint8 `(H, W, 1)` or `(H, W, 3)`, and what it leaves out."""
    from PIL import Image

    # To open a pipe would wait for somebody to write into it.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("no regular file")
    with Image.open(path) as file:
        if file.mode[0] in "IF":
            raise ValueError(f"mode {file.mode} is not 8 bits per channel")
        # A camera's JPEG may hold a preview beside the image.
        frames = getattr(file, "n_frames", 1)
        if frames > 1 and file.format != "MPO":
            raise ValueError(f"{frames} images in one file")
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
            image = image.resize(image_size[::-1], Image.Resampling.BILINEAR)
        return np.atleast_3d(np.asarray(image)), ignored


def read_files(
    parts: dict[str, Files],
    class_names: tuple[str, ...],
    image_size: ImageSize,
    colour: bool = False,
) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
    """Reads the files of all splits, one by one.

    With `colour`, the images have three channels even if all are grey.

    Returns:
        The images of every split, parts of one array, and the names of the
        unreadable files.
    """
    import keras

    total = sum(len(files.paths) for files in parts.values())
    progress = keras.utils.Progbar(total, verbose=int(total >= PROGRESS_FROM))
    # All in one array from the beginning: a list of images, stacked in the
    # end, would take the memory twice.
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    read: list[pathlib.Path] = []
    problems: dict[pathlib.Path, str] = {}
    ignored: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    kept: dict[str, tuple[slice, Array]] = {}
    # One by one: for small images threads only add to the time.
    for name, files in parts.items():
        start, labels = len(read), []
        for path, label in zip(files.paths, files.labels, strict=True):
            progress.add(1)
            try:
                image, reasons = _decode(path, image_size)
            except Exception as error:
                # Decoders raise many kinds of errors for damaged files.
                problems[path] = f"{type(error).__name__}: {error}"
                continue
            if not read:
                pixels = np.empty((total, *image.shape[:2], 3), np.uint8)
            if image.shape[:2] != pixels.shape[1:3]:
                raise ValueError(
                    "All images must have one size. Received (height, width) "
                    f"= {pixels.shape[1:3]} in {read[0]} and "
                    f"{image.shape[:2]} in {path}. Pass "
                    "`image_size=(height, width)` to resize them."
                )
            # A grey image fills all three channels.
            pixels[len(read)] = image
            colour = colour or image.shape[2] == 3
            read.append(path)
            labels.append(label)
            for reason in reasons:
                ignored[reason].append(path)
        kept[name] = slice(start, len(read)), np.asarray(labels, np.int32)
    if problems:
        warn_of(
            f"Skipped {len(problems)} unreadable image(s)",
            [f"{path} ({problem})" for path, problem in problems.items()],
            " All are listed in `skipped`.",
        )
    for reason, paths in ignored.items():
        warn_of(f"{len(paths)} image(s) {reason}", paths)
    for name, files in parts.items():
        for label in np.setdiff1d(files.labels, kept[name][1]):
            raise ValueError(
                f"None of the images of the class {class_names[label]!r} that "
                f"were chosen for {name} can be read."
            )
    if not colour:
        pixels = pixels[..., :1].copy()
    return {
        name: ImageArrays(pixels[part], labels)
        for name, (part, labels) in kept.items()
    }, tuple(map(str, problems))

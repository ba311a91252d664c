"""Image files in folders, in the layout train/<class>/ and test/<class>/."""

import collections
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import Reading
from keras_wake.datasets.source import Source
from keras_wake.utils import validate
from keras_wake.utils.types import Array

LAYOUT = "train/<class>/<image> and test/<class>/<image>"
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


def shuffled(
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
    if more > 0:
        shown += f"; and {more} more"
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
) -> Reading:
    """Reads the files of all splits, one by one, into one array.

    With `colour`, the images have three channels even if all are grey.
    """
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


def check_exists(data_dir: DataDir, hint: str = "") -> pathlib.Path:
    """`data_dir` as a path; refuses what is no folder."""
    if data_dir is None:
        raise ValueError(f"`data_dir` is needed. {hint} Received: None.")
    root = pathlib.Path(validate.path(data_dir=data_dir))
    if not root.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be a folder that exists. "
            f"Received: data_dir={str(data_dir)!r}."
        )
    return root


def class_folders(
    folder: pathlib.Path, layout: str = LAYOUT
) -> list[pathlib.Path]:
    """The folders in `folder`, in alphabetical order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected the layout {layout}."
        )
    entries = sorted(e for e in folder.iterdir() if not _is_hidden(e.name))
    for entry in entries:
        if not entry.exists():
            raise FileNotFoundError(
                f"{entry} is a link to {os.readlink(entry)!r}, which is not "
                "there. Mount what it leads to, or remove the link."
            )
        if entry.name.encode("utf-8", "replace").decode() != entry.name:
            raise ValueError(
                f"The name {entry.name!a} of a class in {folder} is not "
                "UTF-8. Rename it."
            )
    images = (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    loose = [
        entry
        for entry in entries
        if entry.suffix.lower() in images and not entry.is_dir()
    ]
    if loose:
        warn_of(
            f"Left out {len(loose)} image file(s) that lie in {folder} itself "
            "and so have no class",
            loose,
        )
    return [entry for entry in entries if entry.is_dir()]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def files_of(folders: list[pathlib.Path], classes: list[str]) -> Files:
    """The image files of class folders, with the index of their class."""
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    left_out: list[pathlib.Path] = []
    for folder in folders:
        below = sorted(_files_below(folder))
        # A broken link is reported as an unreadable image.
        found = [
            path
            for path in below
            if path.suffix.lower() in IMAGE_SUFFIXES or not path.exists()
        ]
        others = [p for p in below if p.suffix.lower() in OTHER_SUFFIXES]
        if not found:
            only = f" It has {len(others)} in other formats." if others else ""
            raise ValueError(
                f"The class folder {folder} has no images "
                f"({', '.join(IMAGE_SUFFIXES)}).{only} Add some or remove the "
                "folder."
            )
        paths += found
        labels += [classes.index(folder.name)] * len(found)
        left_out += others
    return shuffled(paths, labels, left_out)


def _files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files that are not hidden; links to folders are followed."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for where, folders, names in os.walk(folder, True, refuse, True):
        real = os.path.realpath(where)
        if real in seen:
            raise ValueError(
                f"A link leads to {where} a second time, so that its images "
                "would count twice or never end. Remove the link."
            )
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            if not _is_hidden(name):
                yield pathlib.Path(where, name)


def check_classes(
    train: pathlib.Path,
    train_classes: list[str],
    test: pathlib.Path,
    test_classes: list[str],
) -> None:
    """Refuses too few classes, and test images of classes not trained on."""
    if len(train_classes) < 2:
        raise ValueError(
            f"{train} must have at least 2 class folders. "
            f"Received: {train_classes}."
        )
    if not test_classes:
        raise ValueError(f"{test} has no class with images.")
    unknown = sorted(set(test_classes) - set(train_classes))
    if unknown:
        raise ValueError(
            f"{test} has classes that {train} does not have: {unknown}. The "
            f"classes are those of {train.name}/."
        )
    missing = sorted(set(train_classes) - set(test_classes))
    if missing:
        warnings.warn(
            f"{test} has no images of these classes of {train}: {missing}. "
            "Accuracy on the test images leaves them out.",
            stacklevel=2,
        )


def source_of_files(
    train: Files,
    test: Files,
    class_names: list[str],
    image_size: ImageSize,
    colour: bool = False,
) -> Source:
    """A source that reads the chosen files only.

    With `colour`, the images have three channels even if all chosen ones are
    grey.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Folders of images are read with Pillow. Install it with "
            "`pip install pillow`."
        ) from error
    left_out = [*train.left_out, *test.left_out]
    if left_out:
        counts = collections.Counter(path.suffix.lower() for path in left_out)
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        warn_of(
            f"Left out {len(left_out)} image file(s) in formats that are not "
            f"read ({kinds})",
            left_out,
            f" Convert them to one of {', '.join(IMAGE_SUFFIXES)}.",
        )
    names = tuple(validate.list_of_names(class_names))

    def read(chosen: dict[str, Array]) -> Reading:
        parts = {
            name: (test if name == "test" else train).take(positions)
            for name, positions in chosen.items()
        }
        return read_files(parts, names, image_size, colour)

    return Source(train.labels, test.labels, names, "crop_flip", read)


def open_folder(data_dir: DataDir, image_size: ImageSize) -> Source:
    """Lists a folder of images; the chosen ones are read later.

    They are grey if all of them are.
    """
    root = check_exists(data_dir, f"Pass the folder that has {LAYOUT}.")
    train_folders = class_folders(root / "train")
    test_folders = class_folders(root / "test")
    classes = [folder.name for folder in train_folders]
    tested = [folder.name for folder in test_folders]
    check_classes(root / "train", classes, root / "test", tested)
    return source_of_files(
        files_of(train_folders, classes),
        files_of(test_folders, classes),
        classes,
        image_size,
    )

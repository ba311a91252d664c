"""Folders of images in the layout train/<class>/ and test/<class>/."""

import collections
import os
import pathlib
import warnings
from collections.abc import Iterator

from keras_wake.datasets.files import Files
from keras_wake.datasets.files import IMAGE_SUFFIXES
from keras_wake.datasets.files import mixed
from keras_wake.datasets.files import OTHER_SUFFIXES
from keras_wake.datasets.files import read_files
from keras_wake.datasets.files import warn_of
from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import Source
from keras_wake.utils import validate
from keras_wake.utils.types import Array

LAYOUT = "train/<class>/<image> and test/<class>/<image>"


def check_exists(data_dir: DataDir, hint: str = "") -> pathlib.Path:
    """`data_dir` as a path; refuses what is no folder."""
    root = pathlib.Path(validate.path(hint, data_dir=data_dir))
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
    return mixed(paths, labels, left_out)


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

    def read(
        chosen: dict[str, Array],
    ) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
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

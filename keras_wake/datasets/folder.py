"""Folders of images in the layout train/<class>/ and test/<class>/."""

import os
import pathlib
import warnings
from collections.abc import Iterator

from keras_wake.datasets.files import check_pillow
from keras_wake.datasets.files import Files
from keras_wake.datasets.files import IMAGE_SUFFIXES
from keras_wake.datasets.files import mixed
from keras_wake.datasets.files import OTHER_SUFFIXES
from keras_wake.datasets.files import read_files
from keras_wake.datasets.files import shortened_list
from keras_wake.datasets.files import warn_of_other_formats
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import Source
from keras_wake.utils.types import Array

LAYOUT = "train/<class>/<image> and test/<class>/<image>"


def has_layout(data_dir: str | os.PathLike) -> bool:
    """Whether there is a folder `train`; refuses what is no folder."""
    return (check_exists(data_dir) / "train").is_dir()


def check_exists(data_dir: str | os.PathLike) -> pathlib.Path:
    """`data_dir` as a path; refuses what is no folder."""
    if not isinstance(data_dir, (str, os.PathLike)):
        raise TypeError(
            "`data_dir` must be the path of a folder, a string or "
            f"`pathlib.Path`. Received: data_dir={data_dir!r} (of type "
            f"{type(data_dir).__name__})."
        )
    root = pathlib.Path(data_dir)
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
    entries = sorted(
        entry for entry in folder.iterdir() if not _is_hidden(entry.name)
    )
    for entry in entries:
        _check_class_folder(entry)
    classes = [entry for entry in entries if entry.is_dir()]
    loose = [
        entry
        for entry in entries
        if entry.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
        and entry not in classes
    ]
    if loose:
        warnings.warn(
            f"Left out {len(loose)} image file(s) that lie in {folder} itself "
            f"and so have no class: {shortened_list(loose)}.",
            stacklevel=2,
        )
    return classes


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _check_class_folder(entry: pathlib.Path) -> None:
    """Refuses a broken link, and a name that is not UTF-8."""
    if entry.is_symlink() and not entry.exists():
        raise FileNotFoundError(
            f"{entry} is a link to {os.readlink(entry)!r}, which is not "
            "there. Mount what it leads to, or remove the link."
        )
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"The name {entry.name!a} of a class in "
            f"{entry.parent} is not UTF-8. Rename it."
        ) from None


def images_in(
    folder: pathlib.Path,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The image files in a class folder and the folders below it.

    Returns:
        The files that are read, and those in other formats.
    """
    images, others = [], []
    for path in _files_below(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in OTHER_SUFFIXES:
            others.append(path)
        elif not suffix and path.is_symlink() and not path.exists():
            # A broken link, probably to a folder: reported as unreadable.
            images.append(path)
    if not images:
        only = f" It has {len(others)} in other formats." if others else ""
        raise ValueError(
            f"The class folder {folder} has no images "
            f"({', '.join(IMAGE_SUFFIXES)}).{only} Add some or remove the "
            "folder."
        )
    return sorted(images), sorted(others)


def _files_below(
    folder: pathlib.Path, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[pathlib.Path]:
    """All files that are not hidden; links to folders are followed."""
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise ValueError(
            f"{folder} links back to a folder that it lies in, so that its "
            "images would never end. Remove the link."
        )
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not _is_hidden(e.name)]
    except PermissionError as error:
        raise PermissionError(
            f"The folder {folder} may not be read: {error.strerror}. Change "
            "its permissions or remove it."
        ) from error
    for entry in found:
        path = folder / entry.name
        # `entry.is_dir()` raises for a link to itself.
        if path.is_dir() if entry.is_symlink() else entry.is_dir():
            yield from _files_below(path, (*above, identity))
        else:
            yield path


def check_classes(
    train: pathlib.Path,
    train_classes: list[str],
    test: pathlib.Path,
    test_classes: list[str],
) -> None:
    """Refuses too few classes, and test images of classes not trained on.

    Args:
        train: Folder of the training images, for messages.
        train_classes: The classes in it.
        test: Folder of the test images, for messages.
        test_classes: The classes in it.
    """
    if len(train_classes) < 2:
        raise ValueError(
            f"{train} must have at least 2 class folders. "
            f"Received: {train_classes}."
        )
    unknown = sorted(set(test_classes) - set(train_classes))
    if unknown:
        raise ValueError(
            f"{test} has classes that {train} does not have: {unknown}. The "
            f"classes are those of {train.name}/."
        )
    missing = sorted(set(train_classes) - set(test_classes))
    if missing and test_classes:
        warnings.warn(
            f"{test} has no images of these classes of {train}: {missing}. "
            "Accuracy on the test images leaves them out.",
            stacklevel=2,
        )


def files_of(folders: list[pathlib.Path], classes: list[str]) -> Files:
    """The image files of class folders, with the index of their class."""
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    left_out: list[pathlib.Path] = []
    for folder in folders:
        found, others = images_in(folder)
        paths += found
        labels += [classes.index(folder.name)] * len(found)
        left_out += others
    return mixed(paths, labels)._replace(left_out=tuple(left_out))


def source_of_files(
    train: Files,
    test: Files,
    class_names: tuple[str, ...],
    image_size: tuple[int, int] | None,
    colour: bool = False,
) -> Source:
    """A source that reads the chosen files only.

    Args:
        train: The training images.
        test: The test images.
        class_names: Names in the order of the labels.
        image_size: `(height, width)` to resize to, or None.
        colour: Whether the images have three channels even if all chosen
            ones are grey. Defaults to `False`.
    """
    warn_of_other_formats([*train.left_out, *test.left_out])

    def read(
        chosen: dict[str, Array],
    ) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
        parts = {
            name: (test if name == "test" else train).take(positions)
            for name, positions in chosen.items()
        }
        return read_files(parts, class_names, image_size, colour)

    return Source(train.labels, test.labels, class_names, "crop_flip", read)


def open_folder(
    data_dir: str | os.PathLike | None, image_size: tuple[int, int] | None
) -> Source:
    """Lists a folder of images; the chosen ones are read later.

    Args:
        data_dir: Folder with `train` and `test`.
        image_size: `(height, width)` to resize to, or None.

    Returns:
        The source. Its images are grey if all chosen ones are.
    """
    if data_dir is None:
        raise ValueError(
            "`data_dir` is needed to load a folder of images. "
            "Received: data_dir=None."
        )
    root = check_exists(data_dir)
    check_pillow()
    train_folders = class_folders(root / "train")
    test_folders = class_folders(root / "test")
    classes = [folder.name for folder in train_folders]
    tested = [folder.name for folder in test_folders]
    check_classes(root / "train", classes, root / "test", tested)
    if not test_folders:
        raise ValueError(f"{root / 'test'} has no class folders.")
    return source_of_files(
        files_of(train_folders, classes),
        files_of(test_folders, classes),
        tuple(classes),
        image_size,
    )

"""Tiny-ImageNet in the layout of its archive, tiny-imagenet-200.zip."""

import collections
import os
import pathlib

from keras_wake.datasets.files import check_pillow
from keras_wake.datasets.files import Files
from keras_wake.datasets.files import mixed
from keras_wake.datasets.files import shortened_list
from keras_wake.datasets.folder import check_classes
from keras_wake.datasets.folder import check_exists
from keras_wake.datasets.folder import class_folders
from keras_wake.datasets.folder import files_of
from keras_wake.datasets.folder import source_of_files
from keras_wake.datasets.source import Source

LAYOUT = (
    "of tiny-imagenet-200.zip: train/<wnid>/images/<image>, "
    "val/images/<image>, val/val_annotations.txt and words.txt"
)


def open_tiny_imagenet(
    data_dir: str | os.PathLike | None, image_size: tuple[int, int] | None
) -> Source:
    """Lists the images; the chosen ones are read later.

    The images of `val` are the test images. Those of `test` have no labels
    and are left alone, as are the bounding boxes.

    Args:
        data_dir: The folder tiny-imagenet-200 of the archive.
        image_size: `(height, width)` to resize to, or None.

    Returns:
        The source. All its images have three channels, though some files
        are grey.
    """
    if data_dir is None:
        raise ValueError(
            "`data_dir` is needed to load Tiny-ImageNet: unpack "
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip and pass the "
            "folder tiny-imagenet-200. Received: data_dir=None."
        )
    root = check_exists(data_dir)
    check_pillow()
    train, val = root / "train", root / "val"
    folders = class_folders(train, LAYOUT)
    wnids = [folder.name for folder in folders]
    annotations = _annotations(val)
    check_classes(train, wnids, val, sorted(set(annotations.values())))
    return source_of_files(
        files_of(folders, wnids),
        _val_files(val / "images", annotations, wnids),
        _class_names(root / "words.txt", wnids),
        image_size,
        colour=True,
    )


def _lines(path: pathlib.Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Expected the layout {LAYOUT}."
        )
    try:
        # Windows may put a mark in front.
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} is "
            f"{error.object[error.start]:#04x}. Unpack the archive again, or "
            "convert the file: `iconv -f latin1 -t utf-8`."
        ) from error


def _annotations(val: pathlib.Path) -> dict[str, str]:
    """From the names of the files in val/images to their wnids."""
    path = val / "val_annotations.txt"
    wnids: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) < 2:
            raise ValueError(
                f"Every line of {path} must hold a file name, a tab and a "
                f"wnid. Received in line {number}: {line!r}."
            )
        if columns[0] in wnids:
            raise ValueError(
                f"{path} names {columns[0]!r} twice, the second time in line "
                f"{number}."
            )
        wnids[columns[0]] = columns[1].strip()
    if not wnids:
        raise ValueError(f"{path} names no image.")
    return wnids


def _val_files(
    folder: pathlib.Path, annotations: dict[str, str], wnids: list[str]
) -> Files:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected the layout {LAYOUT}."
        )
    missing = sorted(set(annotations) - set(os.listdir(folder)))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} image(s) that val_annotations.txt names are not "
            f"in {folder}: {shortened_list(missing)}. Unpack the archive again."
        )
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    return mixed(
        [folder / name for name in annotations],
        [label_of[wnid] for wnid in annotations.values()],
    )


def _class_names(words: pathlib.Path, wnids: list[str]) -> tuple[str, ...]:
    """The first name of each wnid; with the wnid where classes share it."""
    names = {}
    for line in _lines(words):
        wnid, _, synonyms = line.partition("\t")
        names[wnid] = synonyms.split(",")[0].strip()
    # Without a name, the wnid has to do.
    first = [names.get(wnid) or wnid for wnid in wnids]
    count = collections.Counter(first)
    return tuple(
        name if count[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(first, wnids, strict=True)
    )

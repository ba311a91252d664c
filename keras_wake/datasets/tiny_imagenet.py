"""Tiny-ImageNet in the layout of its archive, tiny-imagenet-200.zip."""

import collections
import pathlib

from keras_wake.datasets.folder import check_classes
from keras_wake.datasets.folder import check_exists
from keras_wake.datasets.folder import class_folders
from keras_wake.datasets.folder import files_of
from keras_wake.datasets.folder import shuffled
from keras_wake.datasets.folder import source_of_files
from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import Source

LAYOUT = (
    "of tiny-imagenet-200.zip: train/<wnid>/images/<image>, "
    "val/images/<image>, val/val_annotations.txt and words.txt"
)


def open_tiny_imagenet(data_dir: DataDir, image_size: ImageSize) -> Source:
    """Lists the images; the chosen ones are read later.

    The images of `val` are the test images. Those of `test` have no labels
    and are left alone, as are the bounding boxes. All have three channels,
    though some files are grey.
    """
    root = check_exists(
        data_dir,
        "Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip and pass the "
        "folder tiny-imagenet-200.",
    )
    train, val = root / "train", root / "val"
    folders = class_folders(train, LAYOUT)
    wnids = [folder.name for folder in folders]
    annotations = _annotations(val)
    check_classes(train, wnids, val, sorted(set(annotations.values())))
    test = shuffled(
        [val / "images" / name for name in annotations],
        [wnids.index(wnid) for wnid in annotations.values()],
    )
    names = _class_names(root / "words.txt", wnids)
    train_files = files_of(folders, wnids)
    return source_of_files(train_files, test, names, image_size, colour=True)


def _annotations(val: pathlib.Path) -> dict[str, str]:
    """From the names of the files in val/images to their wnids."""
    path = val / "val_annotations.txt"
    wnids = {}
    for number, line in enumerate(_lines(path), 1):
        name, tab, rest = line.partition("\t")
        if not tab and name.strip():
            raise ValueError(
                f"Every line of {path} must hold a file name, a tab and a "
                f"wnid. Received in line {number}: {line!r}."
            )
        if tab:
            wnids[name] = rest.split("\t")[0].strip()
    present = [path.name for path in (val / "images").glob("*")]
    missing = sorted(set(wnids) - set(present))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} image(s) that {path} names are not in "
            f"{val / 'images'}, such as {missing[0]}. Unpack the archive again."
        )
    return wnids


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


def _class_names(words: pathlib.Path, wnids: list[str]) -> list[str]:
    """The first name of each wnid; with the wnid where classes share it."""
    names = {}
    for line in _lines(words):
        wnid, _, synonyms = line.partition("\t")
        names[wnid] = synonyms.split(",")[0].strip()
    # Without a name, the wnid has to do.
    first = [names.get(wnid) or wnid for wnid in wnids]
    count = collections.Counter(first)
    return [
        name if count[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(first, wnids, strict=True)
    ]

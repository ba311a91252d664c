"""Folders of images in the layout train/<class>/ and test/<class>/."""

import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.sources import Source

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
PROGRESS_FROM = 3000
NAMES_IN_WARNING = 10


class _Files(NamedTuple):
    paths: list[pathlib.Path]
    labels: np.ndarray

    def take(self, positions: np.ndarray) -> "_Files":
        paths = [self.paths[position] for position in positions]
        return _Files(paths, self.labels[positions])


def _check_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Folders of images are read with Pillow. Install it with "
            "`pip install pillow`."
        ) from error


def has_layout(data_dir: str | os.PathLike) -> bool:
    """Whether there is a `train` folder, so that it is a folder of images."""
    return (pathlib.Path(data_dir) / "train").is_dir()


def check_exists(data_dir: str | os.PathLike) -> pathlib.Path:
    """`data_dir` as a path, if it is a folder."""
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(
            f"`data_dir` must be a folder that exists. "
            f"Received: data_dir={str(data_dir)!r}."
        )
    return root


def _class_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Expected the layout "
            "train/<class>/<image> and test/<class>/<image>."
        )
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(
            f"The class folder {folder} has no images "
            f"({', '.join(IMAGE_SUFFIXES)}). Add some or remove the folder."
        )
    return paths


def _files(folders: list[pathlib.Path], class_names: tuple[str, ...]) -> _Files:
    """The files of all classes, mixed.

    A fixed permutation, so that the first images of a split are not all of
    one class, and are the same whatever the seed.
    """
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    for folder in folders:
        found = _images_in(folder)
        paths += found
        labels += [class_names.index(folder.name)] * len(found)
    order = np.random.default_rng(0).permutation(len(paths))
    return _Files(paths, np.asarray(labels, np.int32)).take(order)


def _decode(
    path: pathlib.Path, image_size: tuple[int, int] | None
) -> np.ndarray | str:
    """uint8 `(H, W)` if grey, else `(H, W, 3)`; or why it is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                return f"{path} (mode {file.mode} is not 8 bits per pixel)"
            is_grey = file.mode in ("1", "L", "LA")
            image = file.convert("L" if is_grey else "RGB")
            if image_size is not None:
                height, width = image_size
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        return f"{path} ({type(error).__name__}: {error})"


def _decode_all(
    files: _Files, image_size: tuple[int, int] | None, class_names: tuple
) -> tuple[list[np.ndarray], _Files, list[str]]:
    """The readable images, their files, and the names of the others."""
    import keras

    total = len(files.paths)
    progress = keras.utils.Progbar(total) if total >= PROGRESS_FROM else None
    images: list[np.ndarray] = []
    readable: list[int] = []
    problems: list[str] = []
    skipped: list[str] = []
    # One by one: for small images threads only add to the time.
    for position, path in enumerate(files.paths):
        result = _decode(path, image_size)
        if isinstance(result, str):
            problems.append(result)
            skipped.append(str(path))
        else:
            images.append(result)
            readable.append(position)
        if progress and (position % 500 == 499 or position == total - 1):
            progress.update(position + 1)
    if problems:
        _warn_of(problems)
    kept = files.take(np.asarray(readable, int))
    for label in np.setdiff1d(files.labels, kept.labels):
        folder = files.paths[np.flatnonzero(files.labels == label)[0]].parent
        raise ValueError(
            f"None of the images of the class {class_names[label]!r} that "
            f"were chosen from {folder} can be read."
        )
    return images, kept, skipped


def _warn_of(problems: list[str]) -> None:
    named = "; ".join(problems[:NAMES_IN_WARNING])
    more = len(problems) - NAMES_IN_WARNING
    rest = f"; and {more} more" if more > 0 else ""
    warnings.warn(
        f"Skipped {len(problems)} unreadable image(s): {named}{rest}. "
        "All are listed in `skipped`.",
        stacklevel=2,
    )


def _check_one_size(images: list[np.ndarray], files: _Files) -> None:
    first = images[0].shape[:2]
    for image, path in zip(images, files.paths, strict=True):
        if image.shape[:2] != first:
            raise ValueError(
                "All images must have one size. Received (height, width) = "
                f"{first} in {files.paths[0]} and {image.shape[:2]} in "
                f"{path}. Pass `image_size=(height, width)` to resize them."
            )


def _stacked(images: list[np.ndarray], grey: bool) -> np.ndarray:
    if grey:
        return np.stack(images)[..., np.newaxis]
    return np.stack(
        [
            image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
            for image in images
        ]
    )


def open_folder(
    data_dir: str | os.PathLike, image_size: tuple[int, int] | None
) -> Source:
    """Lists a folder of images; only the chosen ones are read later.

    Args:
        data_dir: Folder with `train` and `test`.
        image_size: `(height, width)` to resize to, or None.

    Returns:
        The source. Its images are grey if all that were chosen are.
    """
    root = check_exists(data_dir)
    _check_pillow()
    train_folders = _class_folders(root / "train")
    test_folders = _class_folders(root / "test")
    class_names = tuple(folder.name for folder in train_folders)
    if len(class_names) < 2:
        raise ValueError(
            f"{root / 'train'} must have at least 2 class folders. "
            f"Received: {list(class_names)}."
        )
    unknown = [
        folder.name for folder in test_folders if folder.name not in class_names
    ]
    if unknown:
        raise ValueError(
            f"{root / 'test'} has classes that {root / 'train'} does not "
            f"have: {unknown}. The classes are those of train/."
        )
    if not test_folders:
        raise ValueError(f"{root / 'test'} has no class folders.")
    missing = sorted(
        set(class_names) - {folder.name for folder in test_folders}
    )
    if missing:
        warnings.warn(
            f"{root / 'test'} has no folder for these classes of "
            f"{root / 'train'}: {missing}. Accuracy on the test images leaves "
            "them out.",
            stacklevel=2,
        )
    train = _files(train_folders, class_names)
    test = _files(test_folders, class_names)

    def read(
        chosen: dict[str, np.ndarray],
    ) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
        images: dict[str, list[np.ndarray]] = {}
        kept: dict[str, _Files] = {}
        skipped: list[str] = []
        for name, positions in chosen.items():
            files = (test if name == "test" else train).take(positions)
            images[name], kept[name], unreadable = _decode_all(
                files, image_size, class_names
            )
            skipped += unreadable
        everything = [image for part in images.values() for image in part]
        all_paths = [path for part in kept.values() for path in part.paths]
        _check_one_size(everything, _Files(all_paths, np.empty(0)))
        grey = all(image.ndim == 2 for image in everything)
        return {
            name: ImageArrays(_stacked(part, grey), kept[name].labels)
            for name, part in images.items()
        }, tuple(skipped)

    return Source(train.labels, test.labels, class_names, "crop_flip", read)

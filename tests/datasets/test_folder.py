"""Folders of images: layout, decoding, and what is wrong with them."""

import os
import pathlib
import shutil
import socket
import sys
import tarfile
import warnings

import numpy as np
import pytest
from image_batches import labelled
from image_batches import sizes_of
from image_batches import write_image
from small import assert_same

from keras_wake import datasets
from keras_wake.datasets import folder as files_module

Image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")

SHARED_CIFAR10 = (
    pathlib.Path(__file__).resolve().parents[3]
    / "shared/data/cifar10-jpeg.tar.xz"
)


@pytest.fixture
def root(tmp_path):
    """Two classes, 6 training and 2 test images each, as PNG."""
    value = 0
    for split, count in (("train", 6), ("test", 2)):
        for name in ("dog", "cat"):
            for number in range(count):
                value += 1
                path = tmp_path / split / name / f"{number}.png"
                write_image(path, value)
    return tmp_path


def load(root, **arguments):
    arguments = {"validation_split": 4, "augment": "none", **arguments}
    return datasets.load("folder", data_dir=root, **arguments)


def test_reads_every_image_with_its_label(root):
    splits = load(root)
    assert splits.class_names == ("cat", "dog")
    assert splits.input_shape == (8, 8, 3)
    assert sizes_of(splits) == (8, 4, 4)
    expected = {}
    for path in root.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.float32) / 255
        expected[pixels.tobytes()] = (
            path.parts[-3] == "test",
            ("cat", "dog").index(path.parts[-2]),
        )
    assert labelled(splits) == expected
    assert np.bincount(splits.arrays("validation")[1]).tolist() == [2, 2]


def test_default_augmentation_is_the_published_one(root):
    (default,), (published,), (plain,) = (
        load(root, augment=name).train for name in (None, "crop_flip", "none")
    )
    np.testing.assert_array_equal(default[0], published[0])
    assert not np.array_equal(default[0], plain[0])


def test_only_the_chosen_files_are_read(root, monkeypatch):
    read = []
    decode = files_module._decode

    def spy(path, image_size):
        read.append(path)
        return decode(path, image_size)

    monkeypatch.setattr(files_module, "_decode", spy)
    load(root, limit=2, test_limit=2)
    assert len(read) == len(set(read)) == 2 + 4 + 2


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "PNG"])
def test_formats_and_nested_folders(tmp_path, suffix):
    for number in range(8):
        split = ("train", "test")[number // 4]
        name = ("a", "b")[number % 2]
        path = tmp_path / split / name / "images" / f"{number}.{suffix}"
        write_image(path, number)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "a" / "._0.png").write_text("left by a Mac")
    splits = load(tmp_path, validation_split=0)
    assert sizes_of(splits) == (4, 0, 4)
    assert splits.skipped == ()


def test_grey_images_have_one_channel_unless_mixed_with_colour(root):
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert load(root).input_shape == (8, 8, 1)
    write_image(root / "train/cat/colour.png", 99)
    splits = load(root, validation_split=0)
    assert splits.input_shape == (8, 8, 3)
    images, _ = splits.arrays("test")
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_other_modes_become_colour(root):
    for mode, suffix in (("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")):
        write_image(root / f"train/cat/{mode}.{suffix}", 99, mode=mode)
    splits = load(root, validation_split=0)
    assert splits.train_size == 15
    assert splits.input_shape == (8, 8, 3)


def test_sizes_must_agree_or_are_made_to(root):
    write_image(root / "test/cat/large.png", 99, side=16)
    with pytest.raises(ValueError, match=r"one size.*large\.png.*image_size"):
        load(root)
    splits = load(root, image_size=(12, 10))
    assert splits.input_shape == (12, 10, 3)
    assert splits.test_size == 5


def test_unreadable_images_are_named_skipped_and_counted(root):
    broken = root / "train/cat/broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    truncated = root / "test/dog/truncated.png"
    truncated.write_bytes((root / "test/dog/0.png").read_bytes()[:100])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load(root, validation_split=0)
    text = " ".join(str(warning.message) for warning in caught)
    assert "Skipped 2 unreadable image(s)" in text
    assert str(broken) in text and str(truncated) in text
    assert set(splits.skipped) == {str(broken), str(truncated)}
    assert sizes_of(splits) == (12, 0, 4)
    for number in range(15):
        (root / f"train/cat/broken{number}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="17 unreadable.*and 7 more"):
        splits = load(root, validation_split=0)
    assert len(splits.skipped) == 17


def test_files_of_systems_and_tools_are_no_data(root):
    expected = load(root, validation_split=0).arrays("train")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        for folder in (root / "train" / "cat", root / "train"):
            write_image(folder / name / "0-checkpoint.png", 99)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._0.png"):
        (root / "train/cat" / name).write_bytes(b"\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        splits = load(root, validation_split=0)
    assert_same(splits.arrays("train"), expected)
    assert splits.class_names == ("cat", "dog")
    assert splits.skipped == ()


def test_other_image_files_are_counted_in_one_warning(root):
    for place in ("train/cat/a.gif", "train/dog/b.GIF", "test/cat/c.gif"):
        write_image(root / place, 99)
    (root / "train/cat/d.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match="Left out") as caught:
        splits = load(root, validation_split=0)
    (text,) = (str(warning.message) for warning in caught)
    assert text.startswith("Left out 4 image file(s)")
    assert "(3 .gif, 1 .heic)" in text and "train/cat/a.gif" in text
    assert sizes_of(splits) == (12, 0, 4)


def test_images_without_a_class_are_counted(root):
    write_image(root / "train/lost.png", 99)
    with pytest.warns(UserWarning, match=r"Left out 1 .*no class: .*lost\.png"):
        assert load(root, validation_split=0).train_size == 12


def test_links_to_folders_are_followed(root):
    expected = load(root, validation_split=0).arrays("train")
    (root / "train/cat").rename(root / "elsewhere")
    (root / "train/cat").symlink_to(root / "elsewhere")
    (root / "train/dog").rename(root / "more")
    (root / "train/dog").mkdir()
    (root / "train/dog/linked").symlink_to(root / "more")
    splits = load(root, validation_split=0)
    assert_same(splits.arrays("train"), expected)


def test_links_to_nothing(root):
    (root / "train/cat/gone").symlink_to(root / "nowhere")
    (root / "train/cat/gone.png").symlink_to("gone.png")
    with pytest.warns(UserWarning, match="Skipped 2 unreadable"):
        assert load(root, validation_split=0).train_size == 12
    (root / "train/bird").symlink_to(root / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"bird is a link to .*nowhere"):
        load(root)


def test_what_is_no_file_is_not_waited_for(root):
    os.mkfifo(root / "train/cat/pipe.png")
    (root / "test/dog/device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root / "train/dog")  # The path of a socket must be short.
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
        with pytest.warns(UserWarning, match="Skipped 3 unreadable") as caught:
            splits = load(root, validation_split=0)
    assert str(caught[0].message).count("no regular file") == 3
    assert sizes_of(splits) == (12, 0, 4)
    assert len(splits.skipped) == 3


@pytest.mark.parametrize("place", ["train/cat", "train/cat/inner"])
def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch, place):
    write_image(root / "train/cat/inner/0.png", 99)
    scan = os.scandir

    def refuse(path):
        # The tests may run as root, who may read everything.
        if str(path) == str(root / place):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=f"Permission denied: .*{place}"):
        load(root)


def test_class_names_that_are_no_text_are_refused(root):
    try:
        os.rename(bytes(root / "train/cat"), bytes(root / "train") + b"/\xe9")
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    with pytest.raises(ValueError, match=r"'\\udce9'.*not UTF-8\. Rename it"):
        load(root)


def test_class_without_readable_images(root):
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"broken")
    message = r"None of the images of the class 'cat' .* for train"
    with (
        pytest.warns(UserWarning, match="unreadable"),
        pytest.raises(ValueError, match=message),
    ):
        load(root)


def test_progress_is_shown_for_many_files(root, monkeypatch, capsys):
    load(root, validation_split=0)
    assert not capsys.readouterr().out
    monkeypatch.setattr(files_module, "PROGRESS_FROM", 5)
    load(root, validation_split=0)
    assert "16/16" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split(root, split):
    shutil.rmtree(root / split)
    message = f"There is no folder .*{split}"
    with pytest.raises(FileNotFoundError, match=message):
        load(root)


def leave_empty(path):
    shutil.rmtree(path)
    path.mkdir()


def rename_to_gif(path):
    for image in path.iterdir():
        image.rename(image.with_suffix(".gif"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: leave_empty(root / "train/cat"),
            "train/cat has no images",
        ),
        (lambda root: leave_empty(root / "test/cat"), "test/cat has no images"),
        (
            lambda root: leave_empty(root / "test"),
            "test has no class with images",
        ),
        (
            lambda root: rename_to_gif(root / "train/cat"),
            "no images .*It has 6 in other form",
        ),
        (
            lambda root: shutil.rmtree(root / "train/dog"),
            r"at least 2 class.*\['cat'\]",
        ),
        (
            lambda root: write_image(root / "test/bird/0.png", 99),
            r"does not have: \['bird'\]",
        ),
        (
            lambda root: (root / "train/cat/again").symlink_to(root / "train"),
            "leads to .*again/cat a second time",
        ),
    ],
)
def test_refuses_classes_that_cannot_be_right(root, change, message):
    change(root)
    with pytest.raises(ValueError, match=message):
        load(root)


def test_class_only_in_train(root):
    shutil.rmtree(root / "test/cat")
    with pytest.warns(UserWarning, match=r"test has no images of.*\['cat'\]"):
        assert load(root).num_classes == 2


def test_cropping_needs_larger_images(root):
    with pytest.raises(ValueError, match=r"crop_flip.*\(4, 8, 3\)"):
        load(root, image_size=(4, 8), augment=None)
    assert load(root, image_size=(4, 8), augment="flip").train_size == 8


@pytest.mark.parametrize("data_dir", [5, b"data", ["data"]])
def test_a_data_dir_that_is_no_path(data_dir):
    with pytest.raises(TypeError, match="`data_dir` must be a path, a text or"):
        load(data_dir)


def test_missing_pillow_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        load(root)


def test_cifar10_from_a_folder_must_have_its_classes(root):
    with pytest.raises(ValueError, match=r"cifar10 has 10 classes, but .* 2"):
        datasets.load("cifar10", data_dir=root)


@pytest.mark.skipif(
    not SHARED_CIFAR10.exists(), reason="no CIFAR-10 (JPEG) beside the project"
)
def test_real_cifar10(tmp_path):
    def few(member, path):
        number = pathlib.PurePath(member.name).stem
        if member.isfile() and int(number) % 1000 >= 8:
            return None
        return tarfile.data_filter(member, path)

    with tarfile.open(SHARED_CIFAR10) as archive:
        archive.extractall(tmp_path, filter=few)
    splits = datasets.load(
        "cifar10", data_dir=tmp_path, validation_split=0.25, limit=50
    )
    assert splits.num_classes == 10
    assert splits.class_names[0] == "airplane"
    assert splits.input_shape == (32, 32, 3)
    assert np.bincount(splits.arrays("train")[1]).tolist() == [5] * 10
    images, _ = splits.arrays("test")
    # The published mean of CIFAR-10, from few images.
    np.testing.assert_allclose(
        images.mean((0, 1, 2)), (0.4914, 0.4822, 0.4465), atol=0.08
    )

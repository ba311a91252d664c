"""Tiny-ImageNet: the layout of its archive, and what is wrong with one."""

import shutil

import numpy as np
import pytest
from image_batches import labelled
from image_batches import sizes_of
from image_batches import write_image

from keras_wake import datasets

Image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")

WNIDS = ("n02000002", "n01000001", "n03000003")
WORDS = {
    "n01000001": "goldfish, Carassius auratus",
    "n02000002": "crane",
    "n03000003": "crane, hoist",
    "n09999999": "not used here",
}


def decoded(path):
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB")).astype(np.float32) / 255


@pytest.fixture
def root(tmp_path):
    """Three classes, 4 training and 2 validation images each."""
    value = 0
    for wnid in WNIDS:
        for number in range(4):
            value += 1
            mode = "L" if number == 0 else "RGB"
            name = f"{wnid}_{number}.JPEG"
            write_image(
                tmp_path / "train" / wnid / "images" / name, value, 8, mode
            )
        boxes = "".join(f"{wnid}_{n}.JPEG\t0\t1\t6\t7\n" for n in range(4))
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    annotations = ""
    for number in range(6):
        value += 1
        write_image(tmp_path / "val" / "images" / f"val_{number}.JPEG", value)
        annotations += f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t1\t6\t7\n"
    (tmp_path / "val" / "val_annotations.txt").write_text(annotations)
    write_image(tmp_path / "test" / "images" / "test_0.JPEG", 99)
    (tmp_path / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    words = "".join(f"{wnid}\t{text}\n" for wnid, text in WORDS.items())
    (tmp_path / "words.txt").write_text(words)
    return tmp_path


def load(root, **arguments):
    arguments = {"validation_split": 3, "augment": "none", **arguments}
    return datasets.load("tiny_imagenet", data_dir=root, **arguments)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_reads_every_image_with_its_label(root):
    splits = load(root)
    assert splits.input_shape == (8, 8, 3)
    assert sizes_of(splits) == (9, 3, 6)
    classes = sorted(WNIDS)
    expected = {}
    for path in (root / "train").rglob("*.JPEG"):
        label = classes.index(path.name.split("_")[0])
        expected[decoded(path).tobytes()] = (False, label)
    for number in range(6):
        path = root / "val" / "images" / f"val_{number}.JPEG"
        label = classes.index(WNIDS[number % 3])
        expected[decoded(path).tobytes()] = (True, label)
    assert len(expected) == 18
    assert labelled(splits) == expected
    assert np.bincount(splits.arrays("validation")[1]).tolist() == [1, 1, 1]


def test_class_names_are_readable_and_unique(root):
    names = ("goldfish", "crane (n02000002)", "crane (n03000003)")
    assert load(root).class_names == names
    edit(root / "words.txt", "n01000001\tgoldfish, Carassius auratus\n", "")
    assert load(root).class_names == ("n01000001", *names[1:])


def test_some_of_the_classes_are_enough(root):
    shutil.rmtree(root / "train" / "n03000003")
    edit(root / "val/val_annotations.txt", "n03000003", "n01000001")
    splits = load(root, validation_split=0)
    assert splits.class_names == ("goldfish", "crane")
    assert np.bincount(splits.arrays("test")[1]).tolist() == [4, 2]


def test_grey_images_have_three_channels_even_alone(root):
    for path in root.rglob("*.JPEG"):
        with Image.open(path) as file:
            grey = file.convert("L")
        grey.save(path)
    splits = load(root)
    assert splits.input_shape == (8, 8, 3)
    images, _ = splits.arrays("train")
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train", "There is no folder .*train.*layout of tiny-imagenet"),
        ("val", "There is no file .*val_annotations.txt.*layout of tiny"),
        ("val/val_annotations.txt", "There is no file .*val_annotations.txt"),
        ("words.txt", "There is no file .*words.txt"),
    ],
)
def test_what_is_missing_is_named(root, missing, message):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=message):
        load(root)


def test_annotated_images_are_all_there_and_alone_are_read(root):
    write_image(root / "val" / "images" / "val_6.JPEG", 77)
    assert load(root).test_size == 6
    for number in (1, 4):
        (root / "val" / "images" / f"val_{number}.JPEG").unlink()
    message = r"2 image\(s\) .* are not in .*, such as val_1\.JPEG\. Unpack"
    with pytest.raises(FileNotFoundError, match=message):
        load(root)


@pytest.mark.parametrize("line", ["val_0.JPEG n01000001", "val_0"])
def test_annotations_that_make_no_sense(root, line):
    path = root / "val/val_annotations.txt"
    path.write_text(f"{line}\n{path.read_text()}")
    message = "file name, a tab and a wnid. Received in line 1: 'val_0"
    with pytest.raises(ValueError, match=message):
        load(root)


def test_classes_without_images_are_refused(root):
    annotations = root / "val/val_annotations.txt"
    text = annotations.read_text()
    edit(annotations, "n03000003", "n04000004")
    with pytest.raises(
        ValueError, match=r"val has classes that .*train does not.*n04000004"
    ):
        load(root)
    annotations.write_text("\n")
    with pytest.raises(ValueError, match="val has no class with images"):
        load(root)
    annotations.write_text(text)
    shutil.rmtree(root / "train" / WNIDS[0] / "images")
    with pytest.raises(ValueError, match="n02000002 has no images"):
        load(root)


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
def test_lists_in_another_encoding_are_named(root, name):
    path = root / name
    path.write_bytes(
        path.read_bytes() + "n04000004\tcaf\xe9\n".encode("latin1")
    )
    message = rf"{name} is not UTF-8: byte \d+ is 0xe9"
    with pytest.raises(ValueError, match=message):
        load(root)


def test_the_mark_that_windows_puts_in_front_is_no_part_of_a_name(root):
    names = load(root).class_names
    lines = (root / "words.txt").read_text().splitlines()
    # The first line is that of a class that is used.
    assert lines[0].startswith("n01000001")
    (root / "words.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    assert load(root).class_names == names

"""`load`: sizes, splits, errors, and the sources that need no folder."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from image_batches import labelled
from image_batches import sizes_of

from keras_wake import datasets

pytest.importorskip("sklearn", reason="the digits come from scikit-learn")


REPO = pathlib.Path(__file__).resolve().parents[2]


def rows(images):
    return {image.tobytes() for image in images}


def tensorflow_datasets():
    pytest.importorskip("tensorflow", reason="TensorFlow Datasets needs it")
    return pytest.importorskip(
        "tensorflow_datasets", reason="it provides CIFAR"
    )


def test_digits():
    splits = datasets.load("digits", batch_size=100, drop_remainder=False)
    assert splits.input_shape == (8, 8, 1)
    assert splits.class_names == tuple("0123456789")
    assert splits.num_classes == 10
    assert splits.skipped == ()
    sizes = {"train": 1294, "validation": 144, "test": 359}
    assert sizes_of(splits) == tuple(sizes.values())
    for name, size in sizes.items():
        dataset = getattr(splits, name)
        batches = [(np.asarray(x), np.asarray(y)) for x, y in dataset]
        assert len(dataset) == len(batches) == -(-size // 100)
        assert sum(len(labels) for _, labels in batches) == size
        images, labels = batches[-1]
        assert images.dtype == np.float32 and labels.dtype == np.int32
        assert images.shape == (size % 100 or 100, 8, 8, 1)
        assert 0 <= images.min() and images.max() <= 1


def test_digits_equal_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    expected = {
        (image / 16).astype(np.float32).tobytes(): label
        for image, label in zip(original.images, original.target, strict=True)
    }
    found = labelled(datasets.load("digits"))
    assert {image: label for image, (_, label) in found.items()} == expected


def test_splits_are_disjoint_stratified_and_independent_of_the_limit():
    whole = datasets.load("digits", validation_split=200)
    part = datasets.load("digits", validation_split=200, limit=300)
    x_train, y_train = part.arrays("train")
    x_validation, y_validation = part.arrays("validation")
    assert len(y_train) == 300 and len(y_validation) == 200
    assert np.bincount(y_train).min() >= 28
    assert np.bincount(y_validation).min() >= 18
    np.testing.assert_array_equal(x_validation, whole.arrays("validation")[0])
    train = rows(whole.arrays("train")[0])
    assert rows(x_train) < train
    assert not train & rows(x_validation)
    assert not train & rows(whole.arrays("test")[0])


def test_seed_changes_the_samples_but_not_the_test_images():
    loaded = [datasets.load("digits", limit=50, seed=n) for n in (0, 0, 1)]
    for name in ("train", "validation", "test"):
        first, same, other = (splits.arrays(name)[0] for splits in loaded)
        np.testing.assert_array_equal(first, same)
        assert (rows(first) == rows(other)) == (name == "test")
        assert np.array_equal(first, other) == (name == "test")


def test_no_validation_and_limited_test():
    splits = datasets.load("digits", validation_split=0, test_limit=40)
    assert splits.validation is None
    assert sizes_of(splits) == (1438, 0, 40)
    assert np.bincount(splits.arrays("test")[1]).tolist() == [4] * 10
    with pytest.raises(ValueError, match="There are no validation images"):
        splits.arrays("validation")


def test_part_of_the_arrays_is_stratified_and_always_the_same():
    splits = datasets.load("digits")
    images, labels = splits.arrays("train", limit=50)
    assert np.bincount(labels).tolist() == [5] * 10
    np.testing.assert_array_equal(images, splits.arrays("train", limit=50)[0])
    with pytest.raises(ValueError, match="`split` must be one of 'train'"):
        splits.arrays("training")
    with pytest.raises(ValueError, match="at most the number of train images"):
        splits.arrays("train", limit=10_000)


def test_categorical_labels():
    integer = datasets.load("digits", limit=30)
    one_hot = datasets.load("digits", limit=30, label_mode="categorical")
    ((_, labels),) = integer.train
    ((_, encoded),) = one_hot.train
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, np.eye(10)[labels])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mnist"}, ValueError, "'cifar100', 'tiny_imagenet', "),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"augment": "cutout"}, ValueError, "'crop_flip', 'flip', 'none'"),
        ({"label_mode": "binary"}, ValueError, "'int', 'categorical'"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"initial_epoch": -1}, ValueError, "`initial_epoch` must be at"),
        ({"limit": 0}, ValueError, "`limit` must be at least 1"),
        ({"limit": 1295}, ValueError, "train images that are left, 1294"),
        ({"test_limit": 360}, ValueError, "number of test images, 359"),
        ({"validation_split": 1.0}, ValueError, "Or pass an integer"),
        ({"validation_split": -0.1}, ValueError, "Or pass an integer"),
        ({"validation_split": -1}, ValueError, "must be at least 0"),
        ({"validation_split": True}, TypeError, "must be an integer"),
        ({"validation_split": "half"}, TypeError, "must be a real number"),
        ({"validation_split": 1429}, ValueError, "between 1 and 1428 of"),
        ({"validation_split": 1e-5}, ValueError, "which is 0 images"),
        ({"image_size": (8, 8)}, ValueError, "only for folders of images"),
        ({"image_size": 8}, ValueError, r"must be \(height, width\)"),
        ({"data_dir": "."}, ValueError, "only for folders of images"),
        (
            {"name": "folder"},
            ValueError,
            "`data_dir` is needed. Pass the folder",
        ),
        (
            {"name": "tiny_imagenet"},
            ValueError,
            "`data_dir` is needed. Unpack http",
        ),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.load(**{"name": "digits", **arguments})


@pytest.mark.parametrize("name", ["folder", "cifar10"])
def test_refuses_a_folder_that_does_not_exist(name):
    message = "`data_dir` must be a folder that exists"
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load(name, data_dir="no/such/folder")


@pytest.mark.parametrize(
    ("name", "classes"), [("cifar10", 10), ("cifar100", 100)]
)
def test_cifar_through_tfds(name, classes):
    tfds = tensorflow_datasets()
    with tfds.testing.mock_data(num_examples=60):
        splits = datasets.load(name, validation_split=10, batch_size=32)
    assert splits.input_shape == (32, 32, 3)
    assert splits.num_classes == classes
    assert sizes_of(splits) == (50, 10, 60)
    images, labels = map(np.asarray, next(iter(splits.train)))
    assert images.shape == (32, 32, 32, 3) and images.max() <= 1
    assert labels.max() < classes
    names = splits.class_names
    assert len(set(names)) == classes
    assert list(names) == sorted(names)
    # Some labels of the published lists.
    expected = {0: "airplane", 1: "automobile"}
    if name == "cifar100":
        expected = {0: "apple", 23: "cloud", 53: "orange", 70: "rose"}
        expected |= {81: "streetcar", 99: "worm"}
    assert {label: names[label] for label in expected} == expected


def test_failed_download_says_what_to_do(monkeypatch, tmp_path):
    tfds = tensorflow_datasets()

    def fail(self, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match=r"\(OSError: no route\).*network"):
        datasets.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("digits", "sklearn.datasets", "needs scikit-learn"),
        ("cifar10", "tensorflow_datasets", "needs tensorflow-datasets"),
        ("cifar10", "tensorflow", "and TensorFlow. Install them"),
    ],
)
def test_missing_package_is_named(monkeypatch, name, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        datasets.load(name)


def test_kind_of_the_data_sets():
    splits = datasets.load("digits", limit=30)
    for dataset in (splits.train, splits.validation, splits.test):
        if keras.backend.backend() == "tensorflow":
            assert type(dataset).__module__.startswith("tensorflow.")
        else:
            assert isinstance(dataset, keras.utils.PyDataset)


WITHOUT_TENSORFLOW = """
import pathlib
import sys
import tempfile

sys.modules["tensorflow"] = None

import keras

before = set(sys.modules)
import keras_wake as kw

heavy = {"tensorflow_datasets", "sklearn", "PIL.Image", "matplotlib"}
assert not heavy & (set(sys.modules) - before)

import numpy as np
from PIL import Image

splits = kw.datasets.load("digits", batch_size=64, limit=150)
images, labels = next(iter(splits.train))
assert images.shape == (64, 8, 8, 1) and labels.shape == (64,)
with tempfile.TemporaryDirectory() as root:
    for number in range(40):
        split, name = ("train", "test")[number // 20], str(number % 10)
        path = pathlib.Path(root, split, name, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 32, 3), number, np.uint8)
        Image.fromarray(pixels).save(path)
    folder = kw.datasets.load("cifar10", data_dir=root, validation_split=0)
    assert next(iter(folder.test))[0].shape == (20, 32, 32, 3)
model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("sgd", loss)
held_out = splits.validation
model.fit(
    splits.train, epochs=2, validation_data=held_out, verbose=0, shuffle=False
)
assert splits.train.epoch_counter.epoch == 2
"""


def test_jax_needs_no_tensorflow_and_imports_nothing_that_only_some_need():
    pytest.importorskip("jax", reason="it is the backend of this test")
    pytest.importorskip("PIL.Image", reason="Pillow decodes the images")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(REPO)},
    )
    assert result.returncode == 0, result.stderr[-2000:]

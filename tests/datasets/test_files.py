"""Image files: formats, and what is read of an image that has more."""

import tracemalloc
import warnings

import numpy as np
import pytest

from keras_wake.datasets import folder as files_module

Image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")


def varied(channels):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (8, 8, channels), np.uint8)


def read(*paths, image_size=None):
    """The pixels of images, the names of the unreadable ones, the warnings."""
    files = files_module.Files(list(paths), np.zeros(len(paths), np.int32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrays, skipped = files_module.read_files(
            {"train": files}, ("a",), image_size
        )
    return arrays["train"].images, skipped, [str(w.message) for w in caught]


def one_image(path, image, **options):
    """What is read of an image that is saved, and the warnings."""
    image.save(path, **options)
    (pixels,), _, texts = read(path)
    return pixels, texts


@pytest.mark.parametrize(
    "suffix", ["webp", "tif", "TIFF", "ppm", "jfif", "JPG"]
)
def test_reads_the_formats_of_torchvision(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    assert path.suffix.lower() in files_module.IMAGE_SUFFIXES
    kind = {"jfif": "JPEG", "JPG": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
    found, texts = one_image(path, Image.fromarray(varied(3)), format=kind)
    with Image.open(path) as file:
        np.testing.assert_array_equal(found, np.asarray(file.convert("RGB")))
    assert not texts


def test_several_images_in_one_file_are_skipped(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    paths = [tmp_path / name for name in ("a.webp", "b.tif", "c.png")]
    for path in paths:
        frames[0].save(path, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "d.png")
    images, skipped, (text,) = read(*paths, tmp_path / "d.png")
    assert len(images) == 1 and skipped == tuple(map(str, paths))
    assert text.count("2 images in one file") == 3


def test_transparency_is_left_out_and_counted(tmp_path):
    pixels = varied(4)
    found, texts = one_image(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(found, pixels[..., :3])
    (text,) = texts
    assert text.startswith("1 image(s) have transparent pixels")
    grey = varied(2)
    found, texts = one_image(tmp_path / "b.png", Image.fromarray(grey, "LA"))
    np.testing.assert_array_equal(found, grey[..., :1])
    assert len(texts) == 1
    # Opaque: nothing is ignored.
    pixels[..., 3] = 255
    found, texts = one_image(tmp_path / "c.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(found, pixels[..., :3])
    assert not texts


def test_palettes_are_their_colours(tmp_path):
    image = Image.fromarray(varied(3)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    found, texts = one_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(found, expected)
    assert not texts
    found, texts = one_image(
        tmp_path / "b.png", image, transparency=bytes([0, 9])
    )
    np.testing.assert_array_equal(found, expected)
    assert len(texts) == 1 and "transparent" in texts[0]


def test_the_orientation_of_cameras_is_not_applied_and_counted(tmp_path):
    image = Image.fromarray(varied(3))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, texts = one_image(tmp_path / "a.jpg", image)
    assert not texts
    turned, texts = one_image(tmp_path / "b.jpg", image, exif=exif)
    np.testing.assert_array_equal(turned, plain)
    (text,) = texts
    assert text.startswith("1 image(s) have an orientation in their EXIF data")
    exif[0x0112] = 1
    assert not one_image(tmp_path / "c.jpg", image, exif=exif)[1]


def test_more_than_eight_bits_are_skipped(tmp_path):
    grey = Image.fromarray(np.zeros((8, 8), np.uint16))
    paths = [tmp_path / name for name in ("a.png", "b.tif", "c.tif")]
    grey.save(paths[0])
    grey.save(paths[1])
    Image.fromarray(np.zeros((8, 8), "float32")).save(paths[2])
    grey.convert("L").save(tmp_path / "d.png")
    images, skipped, (text,) = read(*paths, tmp_path / "d.png")
    assert len(images) == 1 and skipped == tuple(map(str, paths))
    assert text.count("not 8 bits per channel") == 3


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_of_all_formats_are_skipped(tmp_path):
    """Whatever a decoder raises: cut and altered in many places."""
    rng = np.random.default_rng(0)
    paths = []
    for suffix in ("png", "jpg", "tif", "webp", "bmp", "ppm"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(varied(3)).save(whole)
        content = np.frombuffer(whole.read_bytes(), np.uint8)
        for number in range(20):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(damaged[: rng.integers(1, len(content))].tobytes())
            paths.append(path)
    (tmp_path / "whole.png").rename(tmp_path / "0.png")
    _, skipped, _ = read(tmp_path / "0.png", *paths, image_size=(8, 8))
    assert len(skipped) > 60


def test_grey_images_before_the_first_in_colour_are_kept(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        image = Image.fromarray(varied(3) // (number + 1))
        image.convert("RGB" if number == 3 else "L").save(path)
    files = files_module.Files(paths, np.arange(5, dtype=np.int32))
    parts = {"first": files.take([0, 1]), "second": files.take([2, 3, 4])}
    arrays, skipped = files_module.read_files(parts, tuple("abcde"), None)
    assert skipped == ()
    read = np.concatenate([arrays[name].images for name in parts])
    assert read.shape == (5, 8, 8, 3)
    for image, path in zip(read, paths, strict=True):
        expected = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(image, expected)


def test_reading_takes_the_memory_of_the_images_once(tmp_path, monkeypatch):
    pixels = np.zeros((100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    monkeypatch.setattr(
        files_module,
        "_decode",
        lambda path, size: (pixels + 1, []),
    )
    count = 500
    paths = [tmp_path / "0.png"] * count
    files = files_module.Files(paths, np.zeros(count, np.int32))
    tracemalloc.start()
    arrays, _ = files_module.read_files({"train": files}, ("a",), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert arrays["train"].images.nbytes == count * pixels.nbytes
    assert peak < 1.1 * count * pixels.nbytes

"""Images for a run; reading and comparing what it has written."""

import json

import numpy as np
import pytest
from PIL import Image


def strict_json(path):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def assert_same(rows, others):
    """The same texts and numbers; threads may add in another order."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-4, abs=1e-6)
            assert other[key] == value


def save_images(folder, classes, side, **counts):
    """Saves so many images of noise for each class of each split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for label in range(classes):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")

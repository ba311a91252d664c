"""Faults in the values of a batch, counted and named."""

import numpy as np
import pytest

from keras_wake.data.faults import count_faults
from keras_wake.data.faults import raise_for_faults

ANY_RANK = np.full((3, 2, 2, 2), 0.5)
ANY_RANK[1, 0, 1, 1] = np.nan
ANY_RANK[2, 1, 1, 0] = 7
# Each faulty sample counts once.
FAULTY = [[0, 1], [np.nan, 2], [np.inf, 0], [-0.5, 0.5], [0.5, 1.5], [-1, 2]]
ROUNDED = [[-3e-8, 1 + 1e-7], [-9e-7, 1.0], [0, 1 + 9e-7]]


@pytest.mark.parametrize(
    ("x", "bounds", "faults"),
    [
        (FAULTY, (0, 1), [2, 3, 0]),
        (FAULTY, (-1, 2), [2, 0, 0]),
        (ROUNDED, (0, 1), [0, 0, 0]),
        ([[-2e-6, 0], [0, 1 + 2e-6]], (0, 1), [0, 2, 0]),
        (ANY_RANK, (0, 1), [1, 1, 0]),
    ],
)
def test_counts_images(x, bounds, faults):
    labels = np.tile(np.float32([1, 0]), (len(x), 1))
    found = np.asarray(count_faults(np.float32(x), labels, bounds))
    assert found.tolist() == faults


def test_counts_labels_that_name_no_class():
    good = [[1, 0], [0.25, 0.75], [0.5004, 0.5]]
    bad = [[0, 0], [1, 1], [-0.5, 1.5], [np.nan, 1], [0.9, 0.0]]
    x = np.full((8, 2), 0.5, "float32")
    found = np.asarray(count_faults(x, np.float32(good + bad), (0, 1)))
    assert found.tolist() == [0, 0, 5]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([2, 3, 1], r"2 image\(s\) of batch 4 contain NaN or infinity. Remove"),
        (
            [0, 3, 1],
            r"3 image\(s\) of batch 4 lie outside the bounds \[-1, 0\.5\] of "
            "the threat model. Scale the images.*divide by 255.*`bounds=`",
        ),
        (
            [0, 0, 1],
            r"1 label\(s\) of batch 4 name no class. Class numbers must be "
            "between 0 and 9; one-hot and soft labels must be at least 0",
        ),
    ],
)
def test_faults_are_named(faults, message):
    with pytest.raises(ValueError, match=message):
        raise_for_faults(faults, (-1, 0.5), 10, "of batch 4")
    assert raise_for_faults(np.zeros(3), (-1, 0.5), 10, "of batch 4") is None

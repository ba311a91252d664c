"""Faults in the values of a batch, counted and named."""

import numpy as np
import pytest

from keras_wake.data.faults import count_faults
from keras_wake.data.faults import raise_for_faults


def _faults_of(x, labels=None, bounds=(0.0, 1.0)):
    x = np.asarray(x, "float32")
    if labels is None:
        labels = np.tile([1.0, 0.0], (len(x), 1))
    labels = np.asarray(labels, "float32")
    return np.asarray(count_faults(x, labels, bounds)).tolist()


def test_counts_each_faulty_sample_once():
    nan, inf = np.nan, np.inf
    x = [[0, 1], [nan, 2], [inf, 0], [-0.5, 0.5], [0.5, 1.5], [-1, 2]]
    assert _faults_of(x) == [2, 3, 0]
    assert _faults_of(x, bounds=(-1, 2)) == [2, 0, 0]


def test_rounding_is_no_fault():
    assert (
        _faults_of([[-3e-8, 1 + 1e-7], [-9e-7, 1.0], [0, 1 + 9e-7]]) == [0] * 3
    )
    assert _faults_of([[-2e-6, 0], [0, 1 + 2e-6]]) == [0, 2, 0]


def test_counts_labels_that_name_no_class():
    good = [[1, 0], [0.25, 0.75], [0.5004, 0.5]]
    bad = [[0, 0], [1, 1], [-0.5, 1.5], [np.nan, 1], [0.9, 0.0]]
    x = np.full((8, 2), 0.5)
    assert _faults_of(x, good + bad) == [0, 0, 5]


def test_counts_images_of_any_rank():
    x = np.full((3, 2, 2, 2), 0.5)
    x[1, 0, 1, 1] = np.nan
    x[2, 1, 1, 0] = 7
    assert _faults_of(x) == [1, 1, 0]


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


def test_no_fault_is_no_error():
    none = np.zeros(3)
    assert raise_for_faults(none, (0, 1), 10, "of batch 1") is None

"""What becomes of a warning in a test of this suite (conftest.py)."""

import pathlib
import shutil

pytest_plugins = ["pytester"]

ROOT = pathlib.Path(__file__).parents[1]
TESTS = """
import warnings

import numpy as np
import pytest

from keras_wake.attribution import cas


def matrix():
    return np.array([[1, np.nan, 0.5], [np.nan, 1, 0.5], [0.5, 0.5, 1]])


def test_ours():
    cas(matrix())


def test_ours_beside_another():
    with pytest.warns(UserWarning, match="of the test"):
        cas(matrix())
        warnings.warn("of the test")


def test_ours_expected():
    with pytest.warns(UserWarning, match="left out of CAS") as caught:
        cas(matrix())
    assert [warning.category for warning in caught] == [UserWarning]
    assert caught[0].filename == __file__


def test_of_others():
    warnings.warn("of the test")
    np.log(np.zeros(1))
"""


def test_only_an_unexpected_warning_of_ours_fails(pytester):
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, pytester.path)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess(
        "-n", "0", "--override-ini", "testpaths=."
    )
    result.assert_outcomes(failed=2, passed=2, warnings=0)
    result.stdout.fnmatch_lines(["E * left out of CAS."] * 2)
    result.stdout.fnmatch_lines(
        ["FAILED *ours*", "FAILED *ours_beside_another"]
    )
    assert "warnings summary" not in result.stdout.str()

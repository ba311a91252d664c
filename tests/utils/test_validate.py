"""The checks of arguments: what they let pass and what they say."""

import fractions
import math

import numpy as np
import pytest

from keras_wake.utils import validate


def test_returns_numbers_of_python():
    half = fractions.Fraction(1, 2)
    for value in (1, 0.5, np.float32(0.5), np.int64(2), half):
        found = validate.real(x=value)
        assert type(found) is float and found == value
    for value in (3, np.int32(3), np.uint8(3)):
        found = validate.integer(3, x=value)
        assert type(found) is int and found == 3


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, r"`x` must be a real number\. Received: x=True"),
        (np.bool_(True), TypeError, "a real number"),
        ("1", TypeError, r"Received: x='1' \(of type str\)\. Why\.$"),
        (None, TypeError, "x=None"),
        (1j, TypeError, "of type complex"),
        (np.ones(1), TypeError, "of type ndarray"),
        (math.nan, ValueError, r"`x` must be finite\. .*x=nan\. Why\.$"),
        (-math.inf, ValueError, "`x` must be finite. Received: x=-inf"),
    ],
)
def test_real_refuses(value, error, message):
    with pytest.raises(error, match=message):
        validate.real("Why.", x=value)


def test_positive():
    assert validate.positive(x=1e-300) == 1e-300
    for value in (0, -1, -0.0):
        message = rf"`x` must be greater than 0.*Received: x={value}\.$"
        with pytest.raises(ValueError, match=message):
            validate.positive(x=value)
    with pytest.raises(TypeError, match=r"\(of type str\)\.$"):
        validate.positive(x="1")


def test_in_range_is_closed():
    for value in (0.25, 0.5, 0.75):
        assert validate.in_range(0.25, 0.75, x=value) == value
    for value in (0.2499, 0.7501):
        message = rf"`x` must be between 0\.25 and 0\.75. Received: x={value}"
        with pytest.raises(ValueError, match=message):
            validate.in_range(0.25, 0.75, x=value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2, ValueError, r"`x` must be at least 3\. Received: x=2\. Why\."),
        (3.0, TypeError, r"`x` must be an integer\. Received: x=3\.0 \(of ty"),
        (True, TypeError, "of type bool"),
        ("3", TypeError, r"of type str\)\. Why\.$"),
        (None, TypeError, "of type NoneType"),
    ],
)
def test_integer_refuses(value, error, message):
    with pytest.raises(error, match=message):
        validate.integer(3, "Why.", x=value)


def test_boolean_takes_only_truth_values():
    for value in (True, False, np.bool_(True)):
        found = validate.boolean(x=value)
        assert type(found) is bool and found == value
    for value in (1, 0.0, "False", None):
        message = r"`x` must be True or False\. Received: x="
        with pytest.raises(TypeError, match=message):
            validate.boolean(x=value)


def test_one_of():
    assert validate.one_of(("a", "b"), x="b") == "b"
    message = r"`x` must be one of 'a', 'b'\. Received: x='c'\. Why\.$"
    with pytest.raises(ValueError, match=message):
        validate.one_of(("a", "b"), "Why.", x="c")

"""Margins and the difference of logits ratio against NumPy, in float64."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from keras_wake import backend
from keras_wake.losses import dlr_loss
from keras_wake.losses import margin_loss
from keras_wake.losses import targeted_dlr_loss


def _case(classes, images=40):
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (images, classes)).astype("float32")
    y = rng.integers(0, classes, images)
    target = (y + rng.integers(1, classes, images)) % classes
    return logits, y, target


def _margin(z, y, target=None):
    return max(np.delete(z, y)) - z[y]


def _dlr(z, y, target=None):
    ordered = sorted(z, reverse=True)
    scale = ordered[0] - ordered[2] if len(z) > 2 else 1
    return _margin(z, y) / scale


def _targeted_dlr(z, y, target):
    ordered = sorted(z, reverse=True)
    scale = ordered[0] - (ordered[2] + ordered[3]) / 2 if len(z) > 3 else 1
    return (z[target] - z[y]) / scale


def _losses(logits, y, target):
    return (
        margin_loss(y, logits),
        dlr_loss(y, logits),
        targeted_dlr_loss(y, target, logits),
    )


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_equal_their_formulas(classes):
    """With few classes the margins alone, for want of a third or fourth."""
    logits, y, target = _case(classes)
    rows = [*zip(logits.astype("float64"), y, target, strict=True)]
    losses = _losses(logits, np.eye(classes)[y], np.eye(classes)[target])
    formulas = _margin, _dlr, _targeted_dlr
    for found, formula in zip(map(to_numpy, losses), formulas, strict=True):
        expected = [formula(*row) for row in rows]
        assert found.dtype == "float32" and found.shape == (40,)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_are_positive_where_the_image_is_misclassified():
    logits, y, target = _case(5)
    wrong = np.argmax(logits, axis=1) != y
    assert 0 < wrong.sum() < len(y)
    for loss in _losses(logits, y, target)[:2]:
        np.testing.assert_array_equal(to_numpy(loss) > 0, wrong)


def test_the_ratio_has_no_shift_and_no_scale():
    logits, y, target = _case(6)
    _, *shifted = _losses(7 * logits + 2, y, target)
    _, *expected = _losses(logits, y, target)
    for ratio, value in zip(shifted, expected, strict=True):
        np.testing.assert_allclose(ratio, value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("formula", [_dlr, _targeted_dlr])
def test_have_the_gradient_of_a_difference_quotient(formula):
    logits, y, target = _case(5, images=6)

    def total(z):
        _, untargeted, targeted = _losses(z, y, target)
        return ops.sum(untargeted if formula is _dlr else targeted)

    z = logits.astype("float64")
    expected = np.zeros_like(z)
    for i, k in np.ndindex(z.shape):
        step = 1e-6 * np.eye(5)[k]
        above, below = (
            formula(z[i] + sign * step, y[i], target[i]) for sign in (1, -1)
        )
        expected[i, k] = (above - below) / 2e-6
    found = backend.gradient(total, ops.convert_to_tensor(logits))
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-4)


def test_equal_logits_are_no_division_by_zero():
    for loss in _losses(np.ones((1, 4), "float32"), [0], [1])[1:]:
        np.testing.assert_array_equal(to_numpy(loss), [0])


def test_class_numbers_and_soft_labels_are_one_hot_labels():
    logits, y, target = _case(5)
    labels, targets = np.eye(5)[y], np.eye(5)[target]
    for loss in (margin_loss, dlr_loss):
        np.testing.assert_array_equal(loss(y, logits), loss(labels, logits))
    # Of soft ones the largest is the class.
    np.testing.assert_array_equal(
        margin_loss(0.6 * labels + 0.1, logits), margin_loss(labels, logits)
    )
    expected = targeted_dlr_loss(labels, targets, logits)
    for pair in ((y, target), (labels, target), (y, targets)):
        np.testing.assert_array_equal(
            targeted_dlr_loss(*pair, logits), expected
        )


def test_a_number_that_no_class_has_gives_nan():
    logits, y, target = _case(5, images=3)
    second = np.arange(3) == 1
    for losses in (
        *_losses(logits, np.where(second, 5, y), target),
        targeted_dlr_loss(y, np.where(second, -1, target), logits),
    ):
        np.testing.assert_array_equal(np.isnan(to_numpy(losses)), second)


def test_refuse_shapes_that_would_be_broadcast():
    logits, y, _ = _case(5)
    for loss in margin_loss, dlr_loss:
        with pytest.raises(TypeError, match="must be integers"):
            loss(np.zeros((40, 1), "float32"), logits)
        with pytest.raises(ValueError, match=r"\(1, 5\) and \(40, 5\)"):
            loss(np.eye(5)[[0]], logits)
        with pytest.raises(ValueError, match=r"shape \(5,\)"):
            loss(np.eye(5)[0], logits[0])
    with pytest.raises(ValueError, match=r"`targets` and .*\(1, 5\)"):
        targeted_dlr_loss(y, np.eye(5)[[0]], logits)


def test_the_bounds_of_the_ratio():
    """At least −1; at most 1 with three classes; with more, without bound."""
    for classes in (3, 6):
        logits, y, _ = _case(classes, images=500)
        values = to_numpy(dlr_loss(y, logits))
        # Float32 rounds a quotient of equal numbers to 1 ± 1e-6.
        assert values.min() >= -1 - 1e-5
        if classes == 3:
            assert values.max() <= 1 + 1e-5
        above = (logits > logits[np.arange(500), y][:, None]).sum(axis=1)
        assert (above > 1).sum() > 50
        assert values[above > 1].min() >= 1 - 1e-5
        assert values[above <= 1].max() <= 1 + 1e-5
    unbounded = dlr_loss([0], [[0.0, 10.0, 10.0, 9.0]])
    np.testing.assert_allclose(unbounded, [10], rtol=1e-6)

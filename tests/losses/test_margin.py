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


def _margin(z, y):
    return max(np.delete(z, y)) - z[y]


def _dlr(z, y):
    ordered = sorted(z, reverse=True)
    return _margin(z, y) / (ordered[0] - ordered[2])


def _targeted_dlr(z, y, target):
    ordered = sorted(z, reverse=True)
    scale = ordered[0] - (ordered[2] + ordered[3]) / 2
    return (z[target] - z[y]) / scale


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_equal_their_formulas(classes):
    logits, y, target = _case(classes)
    labels, targets = np.eye(classes)[y], np.eye(classes)[target]
    z = logits.astype("float64")
    margin = [_margin(row, k) for row, k in zip(z, y, strict=True)]
    to_target = [
        row[t] - row[k] for row, k, t in zip(z, y, target, strict=True)
    ]
    dlr, targeted = margin, to_target
    if classes >= 3:
        dlr = [_dlr(row, k) for row, k in zip(z, y, strict=True)]
    if classes >= 4:
        targeted = [
            _targeted_dlr(*row) for row in zip(z, y, target, strict=True)
        ]
    for found, expected in (
        (margin_loss(labels, logits), margin),
        (dlr_loss(labels, logits), dlr),
        (targeted_dlr_loss(labels, targets, logits), targeted),
    ):
        found = to_numpy(found)
        assert found.dtype == "float32" and found.shape == (40,)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_are_positive_where_the_image_is_misclassified():
    logits, y, _ = _case(5)
    labels = np.eye(5)[y]
    wrong = np.argmax(logits, axis=1) != y
    assert 0 < wrong.sum() < len(y)
    for loss in (margin_loss, dlr_loss):
        np.testing.assert_array_equal(to_numpy(loss(labels, logits)) > 0, wrong)


def test_the_ratio_has_no_shift_and_no_scale():
    logits, y, target = _case(6)
    labels, targets = np.eye(6)[y], np.eye(6)[target]
    for loss in (
        lambda z: dlr_loss(labels, z),
        lambda z: targeted_dlr_loss(labels, targets, z),
    ):
        np.testing.assert_allclose(
            loss(7 * logits + 2), loss(logits), rtol=1e-3, atol=1e-5
        )


def test_the_largest_of_soft_labels_is_the_class():
    logits, y, _ = _case(4)
    soft = 0.6 * np.eye(4)[y] + 0.1
    np.testing.assert_array_equal(
        margin_loss(soft, logits), margin_loss(np.eye(4)[y], logits)
    )


@pytest.mark.parametrize("targeted", [False, True])
def test_have_the_gradient_of_a_difference_quotient(targeted):
    logits, y, target = _case(5, images=6)
    labels, targets = np.eye(5)[y], np.eye(5)[target]

    def total(z):
        loss = (
            targeted_dlr_loss(labels, targets, z)
            if targeted
            else dlr_loss(labels, z)
        )
        return ops.sum(loss)

    def value(row, k, t):
        return _targeted_dlr(row, k, t) if targeted else _dlr(row, k)

    z = logits.astype("float64")
    expected = np.zeros_like(z)
    for i, k in np.ndindex(z.shape):
        step = 1e-6 * np.eye(5)[k]
        above, below = (
            value(z[i] + sign * step, y[i], target[i]) for sign in (1, -1)
        )
        expected[i, k] = (above - below) / 2e-6
    found = backend.gradient(total, ops.convert_to_tensor(logits))
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-4)


def test_equal_logits_are_no_division_by_zero():
    labels, logits = np.eye(4)[[0]], np.ones((1, 4), "float32")
    targets = np.eye(4)[[1]]
    for loss in (
        dlr_loss(labels, logits),
        targeted_dlr_loss(labels, targets, logits),
    ):
        np.testing.assert_array_equal(to_numpy(loss), [0])


def test_class_numbers_are_one_hot_labels():
    logits, y, target = _case(5)
    labels, targets = np.eye(5)[y], np.eye(5)[target]
    for loss in (margin_loss, dlr_loss):
        np.testing.assert_array_equal(loss(y, logits), loss(labels, logits))
    expected = targeted_dlr_loss(labels, targets, logits)
    for pair in ((y, target), (labels, target), (y, targets)):
        np.testing.assert_array_equal(
            targeted_dlr_loss(*pair, logits), expected
        )


def test_a_number_that_no_class_has_gives_nan():
    logits, y, target = _case(5, images=3)
    wrong = np.where(np.arange(3) == 1, 5, y)
    for losses in (
        margin_loss(wrong, logits),
        dlr_loss(wrong, logits),
        targeted_dlr_loss(wrong, target, logits),
        targeted_dlr_loss(y, np.where(np.arange(3) == 1, -1, target), logits),
    ):
        np.testing.assert_array_equal(
            np.isnan(to_numpy(losses)), [False, True, False]
        )


@pytest.mark.parametrize("loss", [margin_loss, dlr_loss])
def test_refuse_shapes_that_would_be_broadcast(loss):
    logits, _, _ = _case(5)
    with pytest.raises(TypeError, match="must be integers"):
        loss(np.zeros((40, 1), "float32"), logits)
    with pytest.raises(ValueError, match=r"\(1, 5\) and \(40, 5\)"):
        loss(np.eye(5)[[0]], logits)
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        loss(np.eye(5)[0], logits[0])


def test_targets_are_checked_like_labels():
    logits, y, _ = _case(5)
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

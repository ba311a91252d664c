"""Cross-entropy and divergence of logits against SciPy, in float64."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special
from scipy import stats

from keras_wake import backend
from keras_wake.losses import cross_entropy
from keras_wake.losses import kl_divergence
from keras_wake.losses import smoothed

LOGITS = np.random.default_rng(0).normal(0, 4, (7, 4)).astype("float32")
NUMBERS = np.int32([0, 1, 2, 3, 0, 1, 2])
ONE_HOT = np.eye(4, dtype="float32")[NUMBERS]
SOFT = np.random.default_rng(1).dirichlet(np.ones(4), 7).astype("float32")


def gradient(loss, first, logits):
    """By the logits, of the sum of the losses."""
    logits = ops.convert_to_tensor(logits)
    return to_numpy(backend.gradient(lambda x: ops.sum(loss(first, x)), logits))


@pytest.mark.parametrize("labels", [ONE_HOT, SOFT], ids=["one_hot", "soft"])
def test_cross_entropy_equals_scipy_with_gradients(labels):
    log_q = special.log_softmax(LOGITS.astype("float64"), axis=1)
    # Float32 against float64, here and below.
    np.testing.assert_allclose(
        cross_entropy(labels, LOGITS), -(labels * log_q).sum(1), rtol=1e-5
    )
    expected = np.exp(log_q) * labels.sum(1, keepdims=True) - labels
    found = gradient(cross_entropy, labels, LOGITS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_kl_divergence_equals_scipy():
    other = np.random.default_rng(2).normal(0, 4, LOGITS.shape)
    expected = stats.entropy(
        special.softmax(LOGITS.astype("float64"), axis=1),
        special.softmax(other, axis=1),
        axis=1,
    )
    found = kl_divergence(LOGITS, other.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Not symmetric: the other direction would fail above.
    other_way = np.asarray(kl_divergence(other, LOGITS))
    assert np.max(np.abs(other_way - expected)) > 0.1
    np.testing.assert_array_equal(kl_divergence(LOGITS, LOGITS), 0)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite(size):
    logits = ops.convert_to_tensor([[size, -size], [-size, size]])
    labels = np.array([[1.0, 0.0], [1.0, 0.0]], "float32")
    np.testing.assert_allclose(
        cross_entropy(labels, logits), [0, 2 * size], rtol=1e-6
    )
    np.testing.assert_allclose(
        kl_divergence(logits, -logits), [2 * size, 2 * size], rtol=1e-6
    )
    found = gradient(cross_entropy, labels, logits)
    np.testing.assert_allclose(found, [[0, 0], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, kl_divergence])
def test_a_masked_class_adds_nothing(loss):
    """As with its column left out: 0 · log 0 = 0, with a finite gradient."""
    others = [0, 1, 3]
    masked = LOGITS.copy()
    masked[:, 2] = -np.inf
    if loss is cross_entropy:
        first = ONE_HOT[[0, 1, 3, 0, 1, 3, 0]]
    else:
        first = np.roll(masked, 1, axis=0)
    shown = first[:, others], masked[:, others]
    np.testing.assert_allclose(
        to_numpy(loss(first, masked)), loss(*shown), rtol=1e-5
    )
    found = gradient(loss, first, masked)
    np.testing.assert_allclose(
        found[:, others], gradient(loss, *shown), atol=1e-6
    )
    np.testing.assert_array_equal(found[:, 2], 0)
    # A mask on the class itself is another matter.
    right = np.eye(4, dtype="float32")[[2] * 7]
    unlike = (right, masked) if loss is cross_entropy else (LOGITS, masked)
    assert np.isposinf(to_numpy(loss(*unlike))).all()


def test_float16_logits_are_computed_in_float32():
    half = LOGITS.astype("float16")
    losses = np.asarray(cross_entropy(ONE_HOT, half))
    assert losses.dtype == "float32"
    np.testing.assert_array_equal(
        losses, cross_entropy(ONE_HOT, half.astype("float32"))
    )


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_class_numbers_are_one_hot_labels(dtype):
    for shape in (7,), (7, 1):
        numbers = NUMBERS.astype(dtype).reshape(shape)
        np.testing.assert_array_equal(
            cross_entropy(numbers, LOGITS), cross_entropy(ONE_HOT, LOGITS)
        )


def test_a_number_that_no_class_has_gives_nan():
    losses = np.asarray(cross_entropy(np.array([0, 1, 4, 3, -1, 1, 2]), LOGITS))
    np.testing.assert_array_equal(np.isnan(losses), [0, 0, 1, 0, 1, 0, 0])


def test_a_label_of_64_bits_is_not_cut_off():
    # In the int32 of JAX, 2³² + 1 would be class 1.
    losses = cross_entropy(np.arange(7) % 4 + 2**32, LOGITS)
    assert np.isnan(backend.to_numpy(losses)).all()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros(7, "float32"), TypeError, r'must be integers.*"int32"'),
        (np.zeros((7, 1), "float32"), TypeError, "must be integers"),
        (np.zeros((7, 3), "float32"), ValueError, r"shape \(batch, 4\)"),
        (np.zeros((1, 4), "float32"), ValueError, r"\(1, 4\) and \(7, 4\)"),
        (np.zeros(3, "int32"), ValueError, r"\(3, 4\) and \(7, 4\)"),
        (np.zeros((7, 4, 1), "float32"), ValueError, r"\(7, 4, 1\)"),
    ],
)
def test_refuses_labels_that_would_be_broadcast(labels, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(labels, LOGITS)


def test_refuses_what_is_no_batch_of_logits():
    with pytest.raises(
        ValueError, match=r"`logits`.*\(batch, K\).*\(7, 4, 1\)"
    ):
        cross_entropy(ONE_HOT, LOGITS[..., None])
    with pytest.raises(ValueError, match=r"\(7, 1\). A single logit z is"):
        cross_entropy(np.zeros(7, int), LOGITS[:, :1])
    with pytest.raises(
        ValueError, match=r"`p_logits` and `q_logits`.*\(1, 4\)"
    ):
        kl_divergence(LOGITS[:1], LOGITS)
    with pytest.raises(ValueError, match=r"`q_logits`.*shape \(4,\)"):
        kl_divergence(LOGITS, LOGITS[0])


def test_smoothing_equals_its_formula():
    for amount in (0, 0.2, 1):
        np.testing.assert_allclose(
            smoothed(SOFT, amount), (1 - amount) * SOFT + amount / 4, rtol=1e-6
        )
    whole = ops.convert_to_tensor(np.eye(4, dtype="int32"))
    expected = 0.8 * np.eye(4) + 0.05
    np.testing.assert_allclose(smoothed(whole, 0.2), expected, rtol=1e-6)


def test_smoothing_refuses_amounts_out_of_range_and_class_numbers():
    for amount in (2, -1, float("nan")):
        with pytest.raises(ValueError, match="`amount` must be"):
            smoothed(SOFT, amount)
    for labels in (np.arange(4), np.arange(4)[:, None]):
        with pytest.raises(ValueError, match=r"keras\.ops\.one_hot"):
            smoothed(labels, 0.1)

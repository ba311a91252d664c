"""Cross-entropy and divergence of logits against PyTorch and SciPy."""

import numpy as np
import pytest
from keras import ops
from scipy import special
from scipy import stats

from keras_wake import backend
from keras_wake.losses import cross_entropy
from keras_wake.losses import kl_divergence
from keras_wake.losses import smoothed


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 4, (7, 4)).astype("float32")


@pytest.fixture
def one_hot():
    return np.eye(4, dtype="float32")[[0, 1, 2, 3, 0, 1, 2]]


@pytest.fixture
def soft():
    rng = np.random.default_rng(1)
    return rng.dirichlet(np.ones(4), 7).astype("float32")


@pytest.mark.parametrize("kind", ["one_hot", "soft"])
def test_cross_entropy_equals_pytorch_with_gradients(logits, kind, request):
    torch = pytest.importorskip(
        "torch", reason="the reference is PyTorch's cross_entropy"
    )
    labels = request.getfixturevalue(kind)
    reference = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    values = torch.nn.functional.cross_entropy(
        reference, torch.tensor(labels, dtype=torch.float64), reduction="none"
    )
    values.sum().backward()
    # Float32 against float64, here and below.
    np.testing.assert_allclose(
        cross_entropy(labels, logits), values.detach().numpy(), rtol=1e-5
    )
    gradient = backend.gradient(
        lambda x: ops.sum(cross_entropy(labels, x)),
        ops.convert_to_tensor(logits),
    )
    np.testing.assert_allclose(gradient, reference.grad.numpy(), atol=1e-6)


def test_cross_entropy_equals_scipy(logits, soft):
    log_p = special.log_softmax(logits.astype("float64"), axis=1)
    np.testing.assert_allclose(
        cross_entropy(soft, logits), -(soft * log_p).sum(1), rtol=1e-5
    )


def test_kl_divergence_equals_scipy(logits):
    other = np.random.default_rng(2).normal(0, 4, logits.shape)
    expected = stats.entropy(
        special.softmax(logits.astype("float64"), axis=1),
        special.softmax(other, axis=1),
        axis=1,
    )
    found = kl_divergence(logits, other.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Not symmetric: the other direction would fail above.
    other_way = np.asarray(kl_divergence(other, logits))
    assert np.max(np.abs(other_way - expected)) > 0.1


def test_kl_divergence_of_equal_logits_is_zero(logits):
    np.testing.assert_array_equal(kl_divergence(logits, logits), 0)


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
    gradient = backend.gradient(
        lambda x: ops.sum(cross_entropy(labels, x)), logits
    )
    np.testing.assert_allclose(gradient, [[0, 0], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, kl_divergence])
def test_a_masked_class_adds_nothing(logits, one_hot, loss):
    """As with its column left out: 0 · log 0 = 0, with a finite gradient."""
    others = [0, 1, 3]
    masked = logits.copy()
    masked[:, 2] = -np.inf
    if loss is cross_entropy:
        first = one_hot[[0, 1, 3, 0, 1, 3, 0]]
    else:
        first = np.roll(masked, 1, axis=0)
    values = ops.convert_to_numpy(loss(first, masked))
    np.testing.assert_allclose(
        values, loss(first[:, others], masked[:, others]), rtol=1e-5
    )

    def gradient(columns):
        return ops.convert_to_numpy(
            backend.gradient(
                lambda x: ops.sum(loss(first[:, columns], x)),
                ops.convert_to_tensor(masked[:, columns]),
            )
        )

    found = gradient([0, 1, 2, 3])
    np.testing.assert_allclose(found[:, others], gradient(others), atol=1e-6)
    np.testing.assert_array_equal(found[:, 2], 0)
    # A mask on the class itself is another matter.
    right = np.eye(4, dtype="float32")[[2] * 7]
    unlike = (right, masked) if loss is cross_entropy else (logits, masked)
    assert np.isposinf(ops.convert_to_numpy(loss(*unlike))).all()


def test_float16_logits_are_computed_in_float32(logits, one_hot):
    half = logits.astype("float16")
    losses = np.asarray(cross_entropy(one_hot, half))
    assert losses.dtype == "float32"
    np.testing.assert_array_equal(
        losses, cross_entropy(one_hot, half.astype("float32"))
    )


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_class_numbers_are_one_hot_labels(logits, one_hot, dtype, shape):
    numbers = one_hot.argmax(axis=1).astype(dtype).reshape(shape)
    np.testing.assert_array_equal(
        cross_entropy(numbers, logits), cross_entropy(one_hot, logits)
    )


def test_a_label_of_64_bits_is_not_cut_off(logits):
    # In the int32 of JAX, 2³² + 1 would be class 1.
    labels = np.arange(7) % 4 + 2**32
    assert np.isnan(backend.to_numpy(cross_entropy(labels, logits))).all()


def test_a_number_that_no_class_has_gives_nan(logits):
    numbers = np.array([0, 1, 4, 3, -1, 1, 2])
    losses = np.asarray(cross_entropy(numbers, logits))
    np.testing.assert_array_equal(np.isnan(losses), [0, 0, 1, 0, 1, 0, 0])


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
def test_refuses_labels_that_would_be_broadcast(logits, labels, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(labels, logits)


def test_refuses_what_is_no_batch_of_logits(logits, one_hot):
    with pytest.raises(
        ValueError, match=r"`logits`.*\(batch, K\).*\(7, 4, 1\)"
    ):
        cross_entropy(one_hot, logits[..., None])
    with pytest.raises(ValueError, match=r"\(7, 1\). A single logit z is"):
        cross_entropy(np.zeros(7, int), logits[:, :1])
    with pytest.raises(
        ValueError, match=r"`p_logits` and `q_logits`.*\(1, 4\)"
    ):
        kl_divergence(logits[:1], logits)
    with pytest.raises(ValueError, match=r"`q_logits`.*shape \(4,\)"):
        kl_divergence(logits, logits[0])


def test_smoothing_equals_its_formula(soft):
    for amount in (0, 0.2, 1):
        np.testing.assert_allclose(
            smoothed(soft, amount), (1 - amount) * soft + amount / 4, rtol=1e-6
        )
    whole = ops.convert_to_tensor(np.eye(4, dtype="int32"))
    expected = 0.8 * np.eye(4) + 0.05
    np.testing.assert_allclose(smoothed(whole, 0.2), expected, rtol=1e-6)


def test_smoothing_refuses_amounts_out_of_range_and_class_numbers(soft):
    for amount in (2, -1, float("nan")):
        with pytest.raises(ValueError, match="`amount` must be"):
            smoothed(soft, amount)
    for labels in (np.arange(4), np.arange(4)[:, None]):
        with pytest.raises(ValueError, match=r"keras\.ops\.one_hot"):
            smoothed(labels, 0.1)

"""The distillation loss against PyTorch's `kl_div`, gradients included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from scipy import special

from keras_wake import backend
from keras_wake.losses import distillation_loss


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return tuple(rng.normal(0, 3, (2, 6, 5)).astype("float32"))


def gradient(student, teacher, *arguments):
    """By the student's logits, of the sum of the losses."""
    return ops.convert_to_numpy(
        backend.gradient(
            lambda s: ops.sum(distillation_loss(s, teacher, *arguments)),
            ops.convert_to_tensor(student),
        )
    )


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0, 10])
@pytest.mark.parametrize("scale", [True, False])
def test_equals_pytorch_with_gradients(pair, temperature, scale):
    torch = pytest.importorskip(
        "torch", reason="the reference is PyTorch's kl_div"
    )
    student, teacher = (
        torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        for logits in pair
    )
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.softmax(teacher / temperature, dim=1),
        reduction="none",
    )
    values = divergence.sum(1) * (temperature**2 if scale else 1)
    by_student, by_teacher = (
        gradient.numpy()
        for gradient in torch.autograd.grad(values.sum(), (student, teacher))
    )
    values = values.detach().numpy()

    student, teacher = (ops.convert_to_tensor(logits) for logits in pair)
    found = distillation_loss(student, teacher, temperature, scale)
    # Float32 against float64; values and gradients are up to about 20.
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)
    found = gradient(student, teacher, temperature, scale)
    np.testing.assert_allclose(found, by_student, rtol=1e-5, atol=1e-5)
    # It does not stop the teacher's gradient; that is the caller's choice.
    found = backend.gradient(
        lambda t: ops.sum(distillation_loss(student, t, temperature, scale)),
        teacher,
    )
    np.testing.assert_allclose(found, by_teacher, rtol=1e-5, atol=1e-5)


def test_defaults_are_temperature_2_and_scaled(pair):
    np.testing.assert_array_equal(
        distillation_loss(*pair), distillation_loss(*pair, 2.0, True)
    )
    unscaled = distillation_loss(*pair, temperature=2.0, scale=False)
    np.testing.assert_allclose(
        distillation_loss(*pair), 4 * np.asarray(unscaled), rtol=1e-6
    )


def test_is_zero_for_equal_logits_with_a_zero_gradient(pair):
    teacher = ops.convert_to_tensor(pair[1])
    np.testing.assert_array_equal(distillation_loss(teacher, teacher), 0)
    # Softmax does not see a constant. Float32 rounds 1000 + x to 6e-5.
    shifted = distillation_loss(teacher + 1000, teacher)
    np.testing.assert_allclose(shifted, 0, atol=1e-6)
    np.testing.assert_allclose(gradient(teacher, teacher), 0, atol=1e-6)


LOGITS = hnp.arrays("float32", (2, 3), elements=st.floats(-50, 50, width=32))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.5, 10))
def test_is_never_negative(student, teacher, temperature):
    losses = np.asarray(distillation_loss(student, teacher, temperature))
    # Terms of a size up to 100 · T cancel in float32.
    assert losses.min() >= -1e-5 * temperature**2
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("temperature", [8, 50, 1e3, 1e4, 1e6])
def test_is_never_negative_at_a_high_temperature(temperature):
    rng = np.random.default_rng(0)
    for size in (1e-3, 1, 100):
        student, teacher = rng.normal(0, size, (2, 50, 7)).astype("float32")
        losses = np.asarray(distillation_loss(student, teacher, temperature))
        assert losses.min() > 0 and np.all(np.isfinite(losses))


@pytest.mark.parametrize("temperature", [7.99, 8, 100])
def test_is_the_same_on_both_sides_of_a_high_temperature(pair, temperature):
    student, teacher = pair
    p, q = (
        special.log_softmax(logits.astype("float64") / temperature, axis=1)
        for logits in (teacher, student)
    )
    expected = temperature**2 * (np.exp(p) * (p - q)).sum(axis=1)
    found = distillation_loss(student, teacher, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e4, 1e5, 1e6])
def test_has_its_limit_at_high_temperatures(pair, temperature):
    student, teacher = pair
    difference = student.astype("float64") - teacher
    found = distillation_loss(student, teacher, temperature)
    # T² · KL tends to half the variance of s − t. The next term is smaller by
    # the factor |s − t| / T, and |s − t| is below 20.
    tolerance = 20 / temperature + 1e-5
    expected = np.var(difference, axis=1) / 2
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    centred = difference - difference.mean(axis=1, keepdims=True)
    found = gradient(student, teacher, temperature)
    np.testing.assert_allclose(found, centred / 5, atol=10 * tolerance)


def test_one_large_difference_at_a_high_temperature():
    student = np.array([[3e7, 0.0, 0.0], [1.0, 0.0, -1.0]], "float32")
    teacher = np.array([[-3e7, 0.0, 0.0], [0.0, 1.0, 0.0]], "float32")
    losses = distillation_loss(student, teacher, 1e6)
    # p is (0, 1/2, 1/2) and log q = −30 for the classes 1 and 2.
    np.testing.assert_allclose(
        losses, [1e12 * (30 - np.log(2)), np.var([1, -1, -1]) / 2], rtol=1e-4
    )
    found = gradient(student, teacher, 1e6)
    np.testing.assert_allclose(found[0], [1e6, -5e5, -5e5], rtol=1e-5)
    assert np.all(np.isfinite(found))


def test_is_finite_for_extreme_logits():
    student = ops.convert_to_tensor([[1e4, -1e4, 0.0], [-1e30, 0.0, 1e30]])
    teacher = ops.convert_to_tensor([[-1e4, 1e4, 0.0], [-1e30, 0.0, 1e30]])
    losses = np.asarray(distillation_loss(student, teacher))
    # p is 1 for class 1, where log q is −2e4 / 2; times T² = 4.
    np.testing.assert_allclose(losses, [4e4, 0], rtol=1e-6)
    # T² / T · (q − p).
    np.testing.assert_allclose(
        gradient(student, teacher), [[2, -2, 0], [0, 0, 0]], atol=1e-6
    )


@pytest.mark.parametrize("temperature", [2.0, 10.0, 1e3])
def test_a_masked_class_adds_nothing(pair, temperature):
    """As with its column left out: 0 · log 0 = 0, with a finite gradient."""
    student, teacher = (values.copy() for values in pair)
    student[:, 1] = teacher[:, 1] = -np.inf
    others = [0, 2, 3, 4]
    shown = student[:, others], teacher[:, others], temperature
    values = ops.convert_to_numpy(
        distillation_loss(student, teacher, temperature)
    )
    np.testing.assert_allclose(values, distillation_loss(*shown), rtol=1e-4)
    found = gradient(student, teacher, temperature)
    np.testing.assert_allclose(
        found[:, others], gradient(*shown), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(found[:, 1], 0)
    # Masked by the teacher alone, and by the student alone.
    loss = distillation_loss(pair[0], teacher, temperature)
    almost = np.where(np.isinf(teacher), -1e4 * temperature, teacher)
    np.testing.assert_allclose(
        loss, distillation_loss(pair[0], almost, temperature), rtol=1e-4
    )
    loss = distillation_loss(student, pair[1], temperature)
    assert np.isposinf(ops.convert_to_numpy(loss)).all()


def test_computes_float16_logits_in_float32(pair):
    student, teacher = (logits.astype("float16") for logits in pair)
    losses = np.asarray(distillation_loss(student, teacher))
    assert losses.dtype == "float32"
    expected = distillation_loss(
        student.astype("float32"), teacher.astype("float32")
    )
    np.testing.assert_array_equal(losses, expected)


@pytest.mark.parametrize(
    ("temperature", "error", "message"),
    [
        (0, ValueError, "`temperature` must be greater than 0.*=0"),
        (-2.0, ValueError, r"`temperature` must be greater than 0.*-2\.0"),
        (float("nan"), ValueError, "`temperature` must be finite"),
        (1e-7, ValueError, "between 1e-06 and 1e\\+06.*=1e-07"),
        (2e6, ValueError, "between 1e-06 and 1e\\+06.*=2000000"),
        (True, TypeError, "`temperature` must be a real number.*bool"),
        ("2", TypeError, "`temperature` must be a real number.*str"),
    ],
)
def test_refuses_a_bad_temperature(pair, temperature, error, message):
    with pytest.raises(error, match=message):
        distillation_loss(*pair, temperature=temperature)


@pytest.mark.parametrize("shape", [(1, 5), (6, 4), (6, 1), (6,), (6, 5, 1)])
def test_refuses_logits_that_would_be_broadcast(pair, shape):
    other = np.zeros(shape, "float32")
    for logits in (pair[0], other), (other, pair[0]):
        with pytest.raises(ValueError, match=r"Received: .*\(6, 5\)|shape \("):
            distillation_loss(*logits)

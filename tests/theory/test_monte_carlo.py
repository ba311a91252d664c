"""The optimum from samples: loss, subgradient, minimum."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from keras_wake.theory import monte_carlo_weights
from keras_wake.theory import robust_loss
from keras_wake.theory import SyntheticModel

MODEL = SyntheticModel(mu=1.5, sigma=0.8, weight_decay=0.7)
BETA = 0.12
X, Y = MODEL.sample(5000, seed=5)
# Below ε0 = 0.524, between it and ε1 = 0.627, and beyond.
RADII = (0.1, 0.45, 0.58, 0.68)


def loss_in_loops(weights, x, y, epsilon, decay, beta):
    """(36), a sample and a corner at a time, with the δ of Lemma 2 in the
    second term."""
    w1, w2 = weights

    def logits(z):
        return [w1 * z[i] + w2 * (sum(z[3:]) - z[3 + i]) for i in range(3)]

    total = 0.0
    for sample, label in zip(x, y, strict=True):
        others = [j for j in range(3) if j != label]
        margins = []
        for delta in itertools.product((-epsilon, epsilon), repeat=6):
            f = logits(sample + delta)
            margins.append(max(f[j] for j in others) - f[label])
        f = logits(sample + MODEL.worst_perturbation(epsilon, label))
        total += (1 - beta) * max(margins)
        total -= beta / 2 * sum(f[j] for j in others)
    return total / len(x) + decay / 2 * (w1**2 + w2**2)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("weights", [(0.8, 0.3), (0.1, 2.0)])
def test_loss_is_that_of_plain_loops(beta, weights):
    # Classes of different size: samples weigh the same.
    given = weights, X[:-2100:700], Y[:-2100:700], 0.4, 0.7, beta
    # Rounding of float64.
    expected = pytest.approx(loss_in_loops(*given), abs=1e-12)
    assert robust_loss(*given)[0] == expected


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_gradient_is_that_of_finite_differences(beta):
    def loss(weights):
        return robust_loss(weights, X, Y, 0.4, 0.7, beta)

    w = np.array([0.8, 0.3])
    # The loss is quadratic here, so that central differences are exact.
    expected = optimize.approx_fprime(w, lambda w: loss(w)[0], 1e-6)
    np.testing.assert_allclose(loss(w)[1], expected, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("epsilon", RADII)
def test_weights_are_those_of_the_closed_form(epsilon, beta):
    expected = MODEL.optimal_weights(epsilon, beta)
    found = monte_carlo_weights(X, Y, epsilon, 0.7, beta)
    # The slope of one sample has a standard deviation below σ in either
    # weight: four standard errors.
    error = 0.8 / np.sqrt(len(X)) / 0.7
    np.testing.assert_allclose(found, expected, atol=4 * error)
    assert (found[1] > 0) == (expected[1] > 0)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("epsilon", [0.1, 0.58])
def test_weights_are_those_of_scipy(epsilon, beta):
    x, y = X[::5], Y[::5]
    done = optimize.minimize(
        robust_loss,
        x0=(1.0, 1.0),
        args=(x, y, epsilon, 0.7, beta),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (0, None)],
    )
    found = monte_carlo_weights(x, y, epsilon, 0.7, beta)
    # What L-BFGS-B stops at by default.
    np.testing.assert_allclose(found, done.x, atol=1e-4)
    assert robust_loss(found, x, y, epsilon, 0.7, beta)[0] <= done.fun + 1e-9


def test_derivative_beyond_the_critical_radius_is_positive():
    # Below (29) the source has it negative.
    for w2 in (1e-6, 0.1, 1.0):
        _, gradient = robust_loss((0.5, w2), X, Y, 0.58, 0.7)
        assert gradient[1] > 0


def test_samples_of_another_kind_are_refused_if_no_optimum_is_found():
    y = np.arange(30) % 3
    x = np.random.default_rng(0).normal(size=(30, 6))
    x[np.arange(30), y] += 2
    x[np.arange(30), 3 + y] -= 1
    with pytest.raises(ValueError, match=r"SyntheticModel\.sample.*\(30, 6\)"):
        monte_carlo_weights(x, y, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1, 2, 3)}, r"`weights`.*\(1, 2, 3\)"),
        ({"x": X[:, :5]}, r"shapes \(N, 6\).*\(15000, 5\)"),
        ({"y": Y[:-1]}, r"\(14999,\)"),
        ({"y": Y + 1}, r"0, 1 and 2.*\[1, 2, 3\]"),
        ({"x": X[:0], "y": Y[:0]}, r"0, 1 and 2.*\[\]"),
        ({"epsilon": -0.1}, "epsilon=-0.1"),
        ({"weight_decay": 0}, "weight_decay=0"),
        ({"label_smoothing": 1}, "label_smoothing=1"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"weights": (1, 1), "x": X, "y": Y, "epsilon": 0.1}
    with pytest.raises(ValueError, match=message):
        robust_loss(**given | change)

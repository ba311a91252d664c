"""Closed forms of the synthetic model against integrals and samples."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats

from keras_wake.theory import expected_maximum
from keras_wake.theory import logits_of
from keras_wake.theory import SyntheticModel

# With numbers that differ, so that none can stand in for another.
MODEL = SyntheticModel(mu=1.5, sigma=0.8, weight_decay=0.7)
BETA = 0.12


def margin(x, weights, label):
    """max_{j≠i} f_j − f_i, written out from (14)."""
    (w1, w2), exclusive, common = weights, x[..., :3], x[..., 3:]
    f = [
        w1 * exclusive[..., i]
        + w2 * sum(common[..., j] for j in range(3) if j != i)
        for i in range(3)
    ]
    others = [f[j] for j in range(3) if j != label]
    return np.maximum(*others) - f[label], f


def attacked(label, epsilon, num_samples=200_000):
    x, _ = MODEL.sample(num_samples, label=label, seed=label)
    return x + MODEL.worst_perturbation(epsilon, label)


def test_lemma_1_is_the_integral_of_the_density():
    # 17: the larger of two standard normals has the density 2 φ Φ.
    value, error = integrate.quad(
        lambda z: 2 * z * stats.norm.pdf(z) * stats.norm.cdf(z), -12, 12
    )
    assert error < 1e-7
    assert expected_maximum() == pytest.approx(value, abs=1e-9)
    assert expected_maximum(2.0, 3.0) == pytest.approx(2 + 3 * value)


def test_logits():
    x, _ = MODEL.sample(5)
    _, expected = margin(x, (0.3, 0.7), 0)
    found = logits_of(x, (0.3, 0.7))
    np.testing.assert_allclose(found, np.stack(expected, axis=-1))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_samples_follow_the_distribution(label):
    x, y = MODEL.sample(50_000, label=label, seed=3)
    assert x.shape == (50_000, 6) and x.dtype == "float64"
    assert (y == label).all() and y.dtype == "int32"
    others = [j for j in range(3) if j != label]
    present = [label, *(3 + j for j in others)]
    assert not x[:, [*others, 3 + label]].any()
    law = stats.norm(MODEL.mu, MODEL.sigma)
    for column in present:
        # Kolmogorov-Smirnov: with the right law p is uniform, and the seed
        # is fixed.
        assert stats.kstest(x[:, column], law.cdf).pvalue > 0.01
    correlation = np.corrcoef(x[:, present], rowvar=False)
    # Five standard errors, 1 / √N each.
    assert np.abs(correlation - np.eye(3)).max() < 5 / math.sqrt(50_000)


def test_samples_of_all_classes_and_seeds():
    x, y = MODEL.sample(4, seed=1)
    assert y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for seed, same in ((1, True), (2, False)):
        assert np.array_equal(MODEL.sample(4, seed=seed)[0], x) == same


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("weights", [(1.0, 0.4), (0.2, 3.0), (1.0, 0.0)])
def test_lemma_2_no_perturbation_is_worse(label, weights):
    epsilon = 0.6
    x, _ = MODEL.sample(200, label=label)
    delta = MODEL.worst_perturbation(epsilon, label)
    worst, _ = margin(x + delta, weights, label)
    corners = list(itertools.product((-epsilon, epsilon), repeat=6))
    inner = np.random.default_rng(0).uniform(-epsilon, epsilon, (500, 6))
    tried = np.concatenate([corners, inner])
    margins, _ = margin(x[:, None] + tried, weights, label)
    # Rounding.
    assert (margins <= worst[:, None] + 1e-12).all()
    np.testing.assert_allclose(margins.max(axis=1), worst, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("weights", [(0.9, 0.4), (0.1, 2.0)])
def test_expected_loss_is_the_mean_over_samples(beta, epsilon, weights):
    values = []
    for label in range(3):
        m, f = margin(attacked(label, epsilon), weights, label)
        others = sum(f[j] for j in range(3) if j != label)
        values.append((1 - beta) * m - beta / 2 * others)
    penalty = 0.7 / 2 * (weights[0] ** 2 + weights[1] ** 2)
    values = np.concatenate(values) + penalty
    expected = MODEL.expected_loss(weights, epsilon, beta)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error
    # With the sign of w1's coefficient as printed in (37) it would be this.
    printed = expected + 2 * (1 - beta) * MODEL.mu * weights[0]
    assert abs(values.mean() - printed) > 40 * error


@pytest.mark.parametrize("beta", [0.0, BETA, 0.5])
@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.5, 0.6, 0.74])
def test_optimal_weights_minimise_the_expected_loss(beta, epsilon):
    best = MODEL.optimal_weights(epsilon, beta)
    assert best[0] > 0 and best[1] >= 0
    least = MODEL.expected_loss(best, epsilon, beta)
    for step in itertools.product((-1e-3, 0, 1e-3), repeat=2):
        near = np.maximum(0, np.array(best) + step)
        # Strong convexity: at least λ/2 of the squared distance.
        more = 0.7 / 2 * np.sum((near - best) ** 2)
        loss = MODEL.expected_loss(near, epsilon, beta)
        assert loss >= least + more - 1e-12


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_common_features_end_at_the_critical_radius(beta):
    critical = MODEL.critical_epsilon(beta)
    assert 0 < critical < MODEL.mu / 2
    w1, w2 = MODEL.optimal_weights(critical - 1e-6, beta)
    assert w1 > 0 and 0 < w2 < 1e-5
    w1, w2 = MODEL.optimal_weights(critical + 1e-6, beta)
    assert w1 > 0 and w2 == 0


def test_with_much_smoothing_common_features_never_end():
    assert MODEL.critical_epsilon(0.6) > MODEL.mu / 2
    assert MODEL.optimal_weights(0.749, 0.6)[1] > 0


def test_derivative_beyond_the_critical_radius_is_positive():
    epsilon = MODEL.critical_epsilon() + 0.01
    losses = [MODEL.expected_loss((1, w2), epsilon) for w2 in (0, 0.1, 0.2, 3)]
    assert losses == sorted(losses) and losses[0] < losses[1]


def test_numbers_by_hand():
    # Lemma 2 as printed.
    found = MODEL.worst_perturbation(0.5)
    np.testing.assert_array_equal(found, [-0.5, 0.5, 0.5, 0.5, -0.5, -0.5])
    model = SyntheticModel(mu=2.0, sigma=math.sqrt(math.pi), weight_decay=0.5)
    assert model.critical_epsilon() == pytest.approx(0.5)
    assert model.critical_epsilon(0.2) == pytest.approx(0.75)
    assert model.optimal_weights(0.25) == pytest.approx((3.0, 1.0))
    # w1 = (0.8 · 2 − 1.4 · 0.25) / 0.5, w2 = (2 − 0.8 · 1.5) / 0.5.
    assert model.optimal_weights(0.25, 0.2) == pytest.approx((2.5, 1.6))
    assert model.optimal_weights(0.6, 0.2) == pytest.approx((1.52, 0.48))


def test_gain_of_label_smoothing():
    def promised(epsilon):
        # 41.
        return BETA * (2 * epsilon + 0.8 / math.sqrt(math.pi)) / 0.7

    e0, e1 = MODEL.critical_epsilon(), MODEL.critical_epsilon(BETA)
    assert e1 > e0
    for epsilon in np.linspace(0.01, e0, 5):
        gain = MODEL.smoothing_gain(epsilon, BETA)
        assert gain == pytest.approx(promised(epsilon))
    between = (e0 + e1) / 2
    gain = MODEL.smoothing_gain(between, BETA)
    assert gain == MODEL.optimal_weights(between, BETA)[1] > 0
    # There (41) would promise more than there is.
    assert gain < promised(between)
    assert MODEL.smoothing_gain((e1 + 0.75) / 2, BETA) == 0


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.6, 0.3), (2.0, 2.0)])
def test_theorem_2_probability_by_monte_carlo(weights):
    epsilon, label = 0.5, 1
    _, f = margin(attacked(label, epsilon), weights, label)
    expected = MODEL.separation_probability(weights, epsilon)
    w1, w2 = weights
    mean = (w1 + w2) * (1.5 - 2 * epsilon)
    # The variance 2σ² printed in (34).
    printed = stats.norm.cdf(mean / (math.hypot(w1, w2) * math.sqrt(2) * 0.8))
    error = math.sqrt(0.25 / len(f[0]))
    for other in (0, 2):
        found = np.mean(f[label] > f[other])
        assert abs(found - expected) < 4 * error
        assert abs(found - printed) > 40 * error


def test_theorem_2_probability_grows_up_to_equal_weights():
    shares = np.linspace(0, 1, 21)
    values = [MODEL.separation_probability((0.5, 0.5 * t), 0.4) for t in shares]
    assert (np.diff(values) > 0).all()
    assert MODEL.separation_probability((0.5, 0.6), 0.4) < values[-1]


def test_is_a_value():
    assert SyntheticModel(1, 1, 1) == SyntheticModel()
    assert isinstance(SyntheticModel(1).mu, float)
    with pytest.raises(AttributeError):
        MODEL.mu = 2.0


def test_a_text_is_no_number():
    with pytest.raises(TypeError, match=r"`mu`.*mu='1'"):
        SyntheticModel(mu="1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SyntheticModel(mu=0), "`mu`.*mu=0"),
        (lambda: SyntheticModel(sigma=-1), "`sigma`.*sigma=-1"),
        (lambda: SyntheticModel(weight_decay=0), "weight_decay=0"),
        (
            lambda: SyntheticModel(mu=1, sigma=1.78),
            "`sigma` must be less than √π · mu = 1.77.*sigma=1.78",
        ),
        (
            lambda: MODEL.optimal_weights(0.75),
            "less than mu / 2 = 0.75.*epsilon=0.75",
        ),
        (lambda: MODEL.optimal_weights(-0.1), "epsilon=-0.1"),
        (
            lambda: MODEL.optimal_weights(0.1, 1.0),
            "below 1.*label_smoothing=1.0",
        ),
        (lambda: MODEL.critical_epsilon(-0.1), "label_smoothing=-0.1"),
        (
            lambda: MODEL.worst_perturbation(0.1, label=3),
            "`label` must be one of 0, 1, 2.*label=3",
        ),
        (lambda: MODEL.sample(0), "num_samples=0"),
        (lambda: MODEL.sample(5, seed=-1), "seed=-1"),
        (
            lambda: MODEL.separation_probability((0, 0), 0.1),
            "must not both be 0",
        ),
        (
            lambda: MODEL.expected_loss((1, -1), 0.1),
            r"pair \(w1, w2\).*\(1, -1\)",
        ),
        (lambda: MODEL.expected_loss((1,), 0.1), r"\(1,\)"),
        (lambda: expected_maximum(0, 0), "stddev=0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""FGSM against its closed form for a linear classifier."""

import numpy as np
import pytest
from attack_cases import linear_classifier
from scipy import special

from keras_wake import WakeModel
from keras_wake.attacks import FGSM
from keras_wake.objectives import AWP
from keras_wake.utils.seeds import CounterSeed

FEATURES = 12


@pytest.fixture
def linear():
    rng = np.random.default_rng(0)
    return linear_classifier(rng.normal(size=(FEATURES, 3)), rng.normal(size=3))


@pytest.fixture
def vectors():
    return np.random.default_rng(1).random((6, FEATURES), np.float32)


def _gradient(linear, x, labels):
    """∇_x CE(W x + b, y) = W (softmax − y), in float64."""
    kernel, bias = (w.astype("float64") for w in linear.get_weights())
    probabilities = special.softmax(x.astype("float64") @ kernel + bias, axis=1)
    return (probabilities - labels) @ kernel.T


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_the_closed_form(linear, vectors, norm, soft):
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    if soft:
        others = np.random.default_rng(2).dirichlet(np.ones(3), size=6)
        labels = 0.9 * labels + 0.1 * others
    gradient = _gradient(linear, vectors, labels)
    direction = np.sign(gradient)
    if norm == "l2":
        direction = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    expected = np.clip(vectors + 0.3 * direction, 0, 1)
    found = FGSM(norm, 0.3)(linear, vectors, labels)
    # Float32 against float64.
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equals_the_closed_form_from_a_random_start(linear, vectors):
    y = np.array([0, 1, 2, 0, 1, 2])
    attack = FGSM(epsilon=0.2, step_size=0.25, random_start=True)
    start = np.asarray(
        attack.threat_model.random_perturbation(vectors, CounterSeed(7))
    )
    gradient = _gradient(linear, vectors + start, np.eye(3)[y])
    delta = np.clip(start + 0.25 * np.sign(gradient), -0.2, 0.2)
    expected = np.clip(vectors + delta, 0, 1)
    # The start decides where the step of 0.25 does not reach the ball's end.
    inside = (np.abs(delta) < 0.19) & (expected > 0) & (expected < 1)
    assert inside.sum() > 3
    found = np.asarray(attack(linear, vectors, y, seed=7))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_defaults_and_the_published_preset_of_fast_at():
    attack = FGSM(epsilon=0.1)
    assert (attack.steps, attack.step_size) == (1, 0.1)
    assert not attack.random_start
    attack = FGSM.fast_at()
    assert (attack.norm, attack.epsilon) == ("linf", 8 / 255)
    assert (attack.steps, attack.step_size) == (1, 10 / 255)
    assert attack.random_start
    assert FGSM.fast_at(epsilon=16 / 255).step_size == 20 / 255


@pytest.mark.parametrize("objective", ["trades", AWP("trades")])
def test_trades_needs_a_random_start(classifier, objective):
    with pytest.raises(
        ValueError,
        match=r"TRADES, needs a random start.* Received: FGSM\(\.\.\., "
        r"random_start=False\)\. Pass `random_start=True`",
    ):
        WakeModel(classifier, FGSM(epsilon=0.03), objective)
    started = FGSM(epsilon=0.03, random_start=True)
    assert WakeModel(classifier, started, objective).attack.loss == "kl"
    crossed = FGSM(epsilon=0.03, loss="cross_entropy")
    assert WakeModel(classifier, crossed, objective).attack is crossed

"""The optimum by training a network, and the parts of that network."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_wake as kw
from keras_wake.theory import AtLeast
from keras_wake.theory import MarginLoss
from keras_wake.theory import monte_carlo_weights
from keras_wake.theory import synthetic_classifier
from keras_wake.theory import SyntheticLogits
from keras_wake.theory import SyntheticModel
from keras_wake.theory import trained_weights

MODEL = SyntheticModel(mu=1.5, sigma=0.8, weight_decay=0.7)
BETA = 0.12
X, Y = MODEL.sample(2000, seed=5)


@pytest.mark.usefixtures("eagerly")
# Below ε0 = 0.524, between it and ε1 = 0.627, and beyond.
@pytest.mark.parametrize(
    ("epsilon", "beta"),
    [
        (0.2, BETA),
        (0.58, 0.0),
        (0.58, BETA),
        (0.68, BETA),
        pytest.param(0.2, 0.0, marks=pytest.mark.slow),
        pytest.param(0.68, 0.0, marks=pytest.mark.slow),
    ],
)
def test_three_ways_lead_to_the_same_weights(epsilon, beta):
    trained = trained_weights(X, Y, epsilon, 0.7, beta)
    sampled = monte_carlo_weights(X, Y, epsilon, 0.7, beta)
    # Ten steps leave 0.2^10 of the way; the rest is float32 and the
    # smallest weight, 1e-6.
    np.testing.assert_allclose(trained, sampled, atol=1e-5)
    # The slope of one sample has a standard deviation below σ in either
    # weight: four standard errors.
    error = 0.8 / np.sqrt(len(X)) / 0.7
    closed = MODEL.optimal_weights(epsilon, beta)
    np.testing.assert_allclose(trained, closed, atol=4 * error)
    assert (trained[1] > 1e-5) == (closed[1] > 0)


def classifier_of(weights, weight_decay=1.0):
    classifier = synthetic_classifier(weight_decay)
    classifier.set_weights([np.array(weights, "float32")])
    return classifier


@pytest.mark.usefixtures("eagerly")
def test_pgd_leads_to_the_same_weights():
    classifier = synthetic_classifier(0.7)
    model = kw.WakeModel(
        classifier,
        kw.attacks.PGD("linf", 0.2, steps=3, step_size=0.15, bounds=(-50, 50)),
        MarginLoss(),
    )
    model.compile(keras.optimizers.SGD(0.8 / 0.7))
    x = X.astype("float32")
    model.fit(x, Y, batch_size=len(x), epochs=10, verbose=0)
    sampled = monte_carlo_weights(X, Y, 0.2, 0.7)
    np.testing.assert_allclose(classifier.get_weights()[0], sampled, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("weights", [(0.7, 0.4), (0.3, 1e-6)])
def test_fgsm_finds_the_perturbation_of_lemma_2(weights):
    attack = kw.attacks.FGSM(epsilon=0.25, bounds=(-50, 50))
    x = X.astype("float32")
    delta = ops.convert_to_numpy(attack(classifier_of(weights), x, Y)) - x
    expected = np.stack([MODEL.worst_perturbation(0.25, y) for y in range(3)])
    # Adding to and subtracting from numbers below 50 in float32.
    np.testing.assert_allclose(delta, expected[Y], atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("classes", [3, 5])
def test_margin_loss(beta, classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, classes)).astype("float32")
    y = rng.integers(classes, size=8)
    expected = []
    for row, label in zip(logits.astype("float64"), y, strict=True):
        others = np.delete(row, label)
        margin = others.max() - row[label]
        expected.append((1 - beta) * margin - beta * others.mean())
    labels = np.eye(classes, dtype="float32")[y]
    loss = MarginLoss(beta).loss(labels, {"adversarial": logits})
    # Float32 against float64.
    np.testing.assert_allclose(
        ops.convert_to_numpy(loss), expected, rtol=1e-5, atol=1e-6
    )


def test_layer_is_equation_14_with_a_regulariser():
    classifier = classifier_of((2.0, 3.0), weight_decay=0.6)
    logits = ops.convert_to_numpy(classifier(X[:50].astype("float32")))
    expected = kw.theory.logits_of(X[:50], (2.0, 3.0))
    # Float32 against float64.
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    (penalty,) = classifier.losses
    assert ops.convert_to_numpy(penalty) == pytest.approx(0.6 / 2 * (4 + 9))


def test_everything_is_saved_and_loaded(tmp_path):
    classifier = classifier_of((2.0, 3.0), weight_decay=0.6)
    attack = kw.attacks.FGSM(epsilon=0.1, bounds=(-50, 50))
    model = kw.WakeModel(classifier, attack, MarginLoss(0.3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective.label_smoothing == 0.3
    (layer,) = loaded.classifier.layers
    assert isinstance(layer, SyntheticLogits) and layer.weight_decay == 0.6
    assert layer.kernel.constraint.minimum == AtLeast().minimum
    np.testing.assert_array_equal(layer.get_weights()[0], [2, 3])
    (penalty,) = loaded.losses
    assert ops.convert_to_numpy(penalty) == pytest.approx(0.3 * 13)


def test_constraint_keeps_weights_from_becoming_negative():
    found = AtLeast(0.5)(ops.convert_to_tensor([-1.0, 0.4, 0.7]))
    found = ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.7], rtol=1e-6)


def test_refuses_weights_that_leave_the_attack_without_gradient():
    x, y = SyntheticModel(weight_decay=0.02).sample(500)
    with pytest.raises(ValueError, match=r"larger weight decay.*=0\.02"):
        trained_weights(x, y, 0.1, weight_decay=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MarginLoss(1.0), "label_smoothing=1.0"),
        (lambda: synthetic_classifier(0), "weight_decay=0"),
        (lambda: SyntheticLogits()(np.zeros((1, 5))), r"6 features.*\(1, 5\)"),
        (lambda: trained_weights(X, Y, 0.1, steps=0), "steps=0"),
        (lambda: trained_weights(X, Y, -0.1), "epsilon=-0.1"),
        (lambda: trained_weights(X[:, 1:], Y, 0.1), r"\(6000, 5\)"),
        (lambda: trained_weights(X, Y + 1, 0.1), r"\[1, 2, 3\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

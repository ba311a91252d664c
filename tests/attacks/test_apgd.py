"""APGD against its description in NumPy, and where the optimum is known."""

import math

import keras
import numpy as np
import pytest
from attack_cases import linear_classifier
from attack_cases import norms
from attack_cases import SmoothNetwork
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special

from keras_wake import backend
from keras_wake.attacks import APGD
from keras_wake.attacks.apgd import _Given
from keras_wake.attacks.apgd import checkpoints
from keras_wake.losses import cross_entropy
from keras_wake.utils.seeds import SampleSeed

pytestmark = pytest.mark.usefixtures("eagerly")
LOSSES = ("cross_entropy", "dlr", "dlr_targeted")


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 333, 1000])
def test_checkpoints_follow_the_formula(steps):
    # In hundredths, which are whole numbers.
    shares = [0, 22]
    while shares[-1] <= 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    expected = {math.ceil(p * steps / 100) for p in shares[1:] if p <= 100}
    found = checkpoints(steps)
    assert found == sorted(expected)
    assert found[0] >= 1 and found[-1] <= steps


def numpy_apgd(loss, gradient, x, start, norm, epsilon, steps, rho=0.75):
    """Algorithm 1 of the paper for one image, in float64, as prose has it.

    Returns the largest loss and the step sizes that were used.
    """

    def step(point, eta):
        direction = gradient(point)
        if norm == "linf":
            direction = np.sign(direction)
        else:
            direction = direction / np.linalg.norm(direction)
        return project(point + eta * direction)

    def project(point):
        delta = point - x
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * min(1, epsilon / np.linalg.norm(delta))
        return np.clip(x + delta, 0, 1)

    eta = 2 * epsilon
    points, losses, etas = [start], [loss(start)], []
    best, most = start, losses[0]
    rises, since, last = 0, 0, (most, False)
    for k in range(steps):
        etas.append(eta)
        now = points[-1]
        new = step(now, eta)
        if k > 0:
            before = points[-2]
            new = project(now + 0.75 * (new - now) + 0.25 * (now - before))
        points.append(new)
        losses.append(loss(new))
        rises += losses[-1] > losses[-2]
        if losses[-1] > most:
            best, most = new, losses[-1]
        if k + 1 in checkpoints(steps):
            few = rises < rho * (k + 1 - since)
            stands = not last[1] and most <= last[0]
            last = (most, few or stands)
            if few or stands:
                eta /= 2
                points[-1], losses[-1] = best, most
            rises, since = 0, k + 1
    return most, etas


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.15), ("l2", 0.4)], ids=["linf", "l2"]
)
@pytest.mark.parametrize("steps", [5, 12, 30])
def test_equals_the_description(norm, epsilon, steps):
    rng = np.random.default_rng(3)
    first = rng.normal(0, 2, (6, 8))
    network = SmoothNetwork(first, rng.normal(0, 1, (8, 4)))
    rng = np.random.default_rng(steps)
    x = rng.random((25, 6)).astype("float32")
    y = rng.integers(0, 4, 25)
    attack = APGD(norm, epsilon, steps)
    images = ops.convert_to_tensor(x)

    def evaluate(those, delta, number):
        """What `APGD._search` takes; nothing counts as misclassified."""
        losses = cross_entropy(y, network(images + delta))
        gradient = backend.gradient(
            lambda d: ops.sum(cross_entropy(y, network(images + d))), delta
        )
        return losses, ops.zeros_like(losses, "bool"), gradient

    seed = SampleSeed(0, np.arange(25))
    start = attack.threat_model.random_on_sphere(images, seed)
    labels = ops.one_hot(y, 4)
    given = _Given(images, labels, labels)
    found = x + to_numpy(attack._search(evaluate, start, given))
    halved = 0
    for i, one_hot in enumerate(np.eye(4)[y]):

        def loss(point, i=i):
            logits = network.logits(point)
            return special.logsumexp(logits) - logits[y[i]]

        def gradient(point, one_hot=one_hot):
            error = special.softmax(network.logits(point)) - one_hot
            return network.gradient(point, error)

        most, etas = numpy_apgd(
            loss,
            gradient,
            x[i].astype("float64"),
            x[i] + to_numpy(start)[i].astype("float64"),
            norm,
            epsilon,
            steps,
        )
        halved += len(set(etas)) > 1
        # Float32 against float64: what is near to an optimum is flat.
        assert loss(found[i].astype("float64")) == pytest.approx(most, abs=2e-4)
    # Otherwise the halving would not be tested.
    assert halved > 25 / 3


@pytest.mark.parametrize(
    ("norm", "loss"),
    [
        ("linf", "cross_entropy"),
        ("l2", "cross_entropy"),
        ("l2", "dlr"),
        ("linf", "dlr_targeted"),
    ],
)
def test_finds_the_optimum_of_a_linear_model(norm, loss):
    # Two classes, so that every loss rises along w_1 − w_0; the bias keeps
    # the images right, so that the search does not end early.
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(10, 2)).astype("float32")
    classifier = linear_classifier(kernel, np.float32([6.0, 0.0]))
    x = rng.uniform(0.4, 0.6, (5, 10)).astype("float32")
    y = np.zeros(5, "int32")
    w = (kernel[:, 1] - kernel[:, 0]).astype("float64")
    direction = np.sign(w) if norm == "linf" else w / np.linalg.norm(w)
    expected = x + 0.3 * direction
    assert expected.min() > 0 and expected.max() < 1
    attack = APGD(norm, 0.3, steps=40, loss=loss)
    found = to_numpy(attack(classifier, x, y, seed=0))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    margin = to_numpy(classifier(found)) @ [-1, 1]
    assert margin.max() < 0
    largest = to_numpy(classifier(expected.astype("float32"))) @ [-1, 1]
    np.testing.assert_allclose(margin, largest, atol=1e-4)


def test_goes_into_the_corner_of_the_box():
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(10, 2)).astype("float32")
    classifier = linear_classifier(kernel, np.float32([20.0, 0.0]))
    # Of an image that sure, the cross-entropy is 0 in float32.
    attack = APGD(epsilon=0.4, steps=20, loss="dlr")
    x = rng.random((5, 10)).astype("float32")
    expected = np.clip(x + 0.4 * np.sign(kernel[:, 1] - kernel[:, 0]), 0, 1)
    assert np.any(expected == 0) and np.any(expected == 1)
    found = to_numpy(attack(classifier, x, np.zeros(5, "int32"), seed=0))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_on_the_sphere(norm):
    attack = APGD(norm, 0.2, bounds=(-1.0, 1.0))
    x = np.zeros((50, 4, 5, 2), "float32")
    seed = SampleSeed(0, np.arange(50))
    start = to_numpy(attack.threat_model.random_on_sphere(x, seed))
    np.testing.assert_allclose(norms(start, norm), 0.2, rtol=1e-5)
    # In all directions: the mean of 50 × 40 of them is near 0.
    assert abs(start.mean()) < 4 * start.std() / math.sqrt(start.size)
    assert len(np.unique(start)) > 1900


@pytest.mark.parametrize("loss", LOSSES)
def test_counts_its_stages_and_passes(loss):
    attack = APGD(epsilon=0.1, steps=7, loss=loss, restarts=2)
    targeted = int(loss == "dlr_targeted")
    for classes in (2, 3, 4, 12):
        targets = min(9, classes - 1) if targeted else 1
        assert attack.stages_for(classes) == 2 * targets
        assert attack.passes(classes) == (8 + targeted, 8)
    if keras.backend.backend() == "jax":
        return  # A loop is traced, and its calls cannot be counted.
    calls = []

    def network(x, training=False):
        calls.append(len(x))
        # Class 0 by far, whatever x is.
        logits = ops.convert_to_tensor(np.float32([[9, 0, 1, 2]]))
        return ops.matmul(x, ops.ones((3, 4))) * 1e-3 + logits

    # Eagerly, so that what is called is counted, and not what is traced.
    attack.run_stage(
        network,
        ops.full((2, 3), 0.5),
        ops.one_hot(np.zeros(2, "int32"), 4),
        SampleSeed(0, [0, 1]),
        ops.zeros((), "int32"),
    )
    assert len(calls) == 8 + targeted


class NoisyWeights(keras.layers.Layer):
    """Logits (W + N) x + b with a new N in each pass."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.generator = keras.random.SeedGenerator(5)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), initializer="normal")

    def call(self, x):
        noise = keras.random.normal(self.w.shape, seed=self.generator)
        # Sure of class 0, so that no image falls by itself.
        bias = ops.convert_to_tensor([9.0, 0.0, 0.0])
        return ops.matmul(x, self.w + self.size * noise) + bias


def test_averages_over_passes_that_draw_anew():
    x = np.full((4, 300), 0.5, np.float32)

    def signs(noise, samples):
        keras.utils.set_random_seed(2)
        network = keras.Sequential([keras.Input((300,)), NoisyWeights(noise)])
        attack = APGD(epsilon=1e-3, steps=1, eot_samples=samples)
        x_adv = attack(network, x, np.zeros(4, "int32"), seed=0)
        return np.sign(to_numpy(x_adv) - x)

    right = signs(0.0, 1)
    np.testing.assert_array_equal(signs(0.0, 3), right)
    # The noise of one pass is twice as large as the weights, that of the mean
    # over 60 passes a quarter of them.
    assert np.mean(signs(0.1, 1) == right) < 0.75
    assert np.mean(signs(0.1, 60) == right) > 0.85


def test_says_what_it_does_with_few_classes():
    for classes in (2, 3, 4):
        assert APGD().note(classes) is None
        dlr = APGD(loss="dlr").note(classes)
        targeted = APGD(loss="dlr_targeted").note(classes)
        assert (dlr is None) == (classes >= 3)
        assert (targeted is None) == (classes >= 4)
    assert "first and the third largest logit. With 2 classes the margin" in (
        APGD(loss="dlr").note(2)
    )
    assert "fourth largest logit. With 3 classes the margin z_t − z_y" in (
        APGD(loss="dlr_targeted").note(3)
    )


def test_does_not_stop_in_half_precision(images):
    # As sure as in `test_numerics.py`: p − y underflows in float16.
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu", dtype="mixed_float16"),
            keras.layers.Dense(3, dtype="mixed_float16"),
        ]
    )
    kernel, bias = classifier.layers[-1].get_weights()
    classifier.layers[-1].set_weights([12 * kernel, bias])
    y = np.argmax(to_numpy(classifier(images)), axis=1)
    for loss in ("cross_entropy", "dlr_targeted"):
        x_adv = to_numpy(
            APGD(epsilon=0.3, steps=10, loss=loss)(classifier, images, y, 0)
        )
        found = np.argmax(to_numpy(classifier(x_adv)), axis=1)
        assert np.mean(found != y) >= 0.5, loss

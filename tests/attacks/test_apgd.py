"""APGD against its description in NumPy, and where the optimum is known."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special

from keras_wake.attacks import APGD
from keras_wake.attacks.apgd import checkpoints
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


class NumPyAPGD:
    """Algorithm 1 of the paper for one image, in float64, as prose has it.

    Args:
        loss: Maps a point to its loss.
        gradient: Maps a point to the gradient of the loss.
    """

    def __init__(self, loss, gradient, x, norm, epsilon, steps, rho=0.75):
        self.loss, self.gradient = loss, gradient
        self.x, self.norm, self.epsilon = x, norm, epsilon
        self.steps, self.rho = steps, rho

    def project(self, point):
        delta = point - self.x
        if self.norm == "linf":
            delta = np.clip(delta, -self.epsilon, self.epsilon)
        else:
            delta = delta * min(1, self.epsilon / np.linalg.norm(delta))
        return np.clip(self.x + delta, 0, 1)

    def direction(self, point):
        gradient = self.gradient(point)
        if self.norm == "linf":
            return np.sign(gradient)
        return gradient / np.linalg.norm(gradient)

    def run(self, start):
        """The best point and the step sizes that were used."""
        eta = 2 * self.epsilon
        points, losses, etas = [start], [self.loss(start)], []
        best, most = start, losses[0]
        rises, since, last = 0, 0, (most, False)
        for k in range(self.steps):
            etas.append(eta)
            now = points[-1]
            new = self.project(now + eta * self.direction(now))
            if k > 0:
                before = points[-2]
                new = self.project(
                    now + 0.75 * (new - now) + 0.25 * (now - before)
                )
            points.append(new)
            losses.append(self.loss(new))
            rises += losses[-1] > losses[-2]
            if losses[-1] > most:
                best, most = new, losses[-1]
            if k + 1 in checkpoints(self.steps):
                few = rises < self.rho * (k + 1 - since)
                stands = not last[1] and most <= last[0]
                last = (most, few or stands)
                if few or stands:
                    eta /= 2
                    points[-1], losses[-1] = best, most
                rises, since = 0, k + 1
        return best, most, etas


class SmoothNetwork:
    """tanh(x A) B with logits of any size, in NumPy and in `keras.ops`."""

    def __init__(self, features=6, classes=4):
        rng = np.random.default_rng(3)
        self.first = rng.normal(0, 2, (features, 8))
        self.second = rng.normal(0, 1, (8, classes))

    def loss(self, x, y):
        logits = np.tanh(x @ self.first) @ self.second
        return special.logsumexp(logits) - logits[y]

    def gradient(self, x, y):
        hidden = np.tanh(x @ self.first)
        error = special.softmax(hidden @ self.second)
        error[y] -= 1
        return self.first @ ((self.second @ error) * (1 - hidden**2))

    def evaluate(self, x, y):
        """What `APGD._search` takes; nothing counts as misclassified."""
        first, second = (
            ops.convert_to_tensor(w, "float32")
            for w in (self.first, self.second)
        )
        one_hot = ops.one_hot(y, second.shape[1])

        def evaluate(delta, number):
            hidden = ops.tanh(ops.matmul(x + delta, first))
            logits = ops.matmul(hidden, second)
            loss = ops.logsumexp(logits, axis=-1) - ops.sum(
                one_hot * logits, axis=-1
            )
            error = ops.softmax(logits) - one_hot
            inner = ops.matmul(error, ops.transpose(second))
            gradient = ops.matmul(inner * (1 - hidden**2), ops.transpose(first))
            return loss, ops.zeros_like(loss, "bool"), gradient

        return evaluate


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.15), ("l2", 0.4)], ids=["linf", "l2"]
)
@pytest.mark.parametrize("steps", [5, 12, 30])
def test_equals_the_description(norm, epsilon, steps):
    network = SmoothNetwork()
    rng = np.random.default_rng(steps)
    images = 25
    x = rng.random((images, 6)).astype("float32")
    y = rng.integers(0, 4, images)
    attack = APGD(norm, epsilon, steps)
    start = to_numpy(
        attack.threat_model.random_on_sphere(
            ops.convert_to_tensor(x), SampleSeed(0, np.arange(images))
        )
    )
    found = x + to_numpy(
        attack._search(
            network.evaluate(ops.convert_to_tensor(x), y),
            ops.convert_to_tensor(start),
            ops.convert_to_tensor(x),
        )
    )
    halved = 0
    for i in range(images):
        reference = NumPyAPGD(
            lambda point, y=y[i]: network.loss(point, y),
            lambda point, y=y[i]: network.gradient(point, y),
            x[i].astype("float64"),
            norm,
            epsilon,
            steps,
        )
        _, most, etas = reference.run(x[i] + start[i].astype("float64"))
        halved += len(set(etas)) > 1
        # Float32 against float64: what is near to an optimum is flat.
        assert network.loss(found[i].astype("float64"), y[i]) == pytest.approx(
            most, abs=2e-4
        )
    # Otherwise the halving would not be tested.
    assert halved > images / 3


def _linear(kernel, bias):
    model = keras.Sequential(
        [keras.Input((kernel.shape[0],)), keras.layers.Dense(len(bias))]
    )
    model.set_weights([kernel, bias])
    return model


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
    classifier = _linear(kernel, np.float32([6.0, 0.0]))
    x = rng.uniform(0.4, 0.6, (5, 10)).astype("float32")
    y = np.zeros(5, "int32")
    w = (kernel[:, 1] - kernel[:, 0]).astype("float64")
    epsilon = 0.3
    delta = epsilon * (np.sign(w) if norm == "linf" else w / np.linalg.norm(w))
    expected = x + delta
    assert expected.min() > 0 and expected.max() < 1
    attack = APGD(norm, epsilon, steps=40, loss=loss)
    found = to_numpy(attack(classifier, x, y, seed=0))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    margin = to_numpy(classifier(found)) @ [-1, 1]
    assert margin.max() < 0
    largest = to_numpy(classifier(expected.astype("float32"))) @ [-1, 1]
    np.testing.assert_allclose(margin, largest, atol=1e-4)


def test_goes_into_the_corner_of_the_box():
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(10, 2)).astype("float32")
    classifier = _linear(kernel, np.float32([20.0, 0.0]))
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
    flat = start.reshape(50, -1)
    size = np.linalg.norm(flat, 2 if norm == "l2" else np.inf, axis=1)
    np.testing.assert_allclose(size, 0.2, rtol=1e-5)
    # In all directions: the mean of 50 × 40 of them is near 0.
    assert abs(flat.mean()) < 4 * flat.std() / math.sqrt(flat.size)
    assert len(np.unique(flat)) > 1900


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
@pytest.mark.parametrize("loss", LOSSES)
def test_counts_its_stages_and_passes(classes, loss):
    attack = APGD(steps=7, loss=loss, restarts=2)
    targets = min(9, classes - 1) if loss == "dlr_targeted" else 1
    assert attack.stages_for(classes) == 2 * targets
    chosen = int(loss == "dlr_targeted")
    assert attack.passes(classes) == (8 + chosen, 8)


@pytest.mark.parametrize("loss", LOSSES)
def test_calls_the_classifier_as_often_as_it_says(loss):
    calls = []

    def network(x, training=False):
        calls.append(len(x))
        # Class 0 by far, whatever x is.
        logits = ops.convert_to_tensor(np.float32([[9, 0, 1, 2]]))
        return ops.matmul(x, ops.ones((3, 4))) * 1e-3 + logits

    attack = APGD(epsilon=0.1, steps=5, loss=loss)
    x = ops.convert_to_tensor(np.full((2, 3), 0.5, "float32"))
    labels = ops.one_hot(np.zeros(2, "int32"), 4)
    # Eagerly, so that what is called is counted, and not what is traced.
    attack.run_stage(
        network, x, labels, SampleSeed(0, [0, 1]), ops.zeros((), "int32")
    )
    if keras.backend.backend() != "jax":  # There a loop is always traced.
        assert len(calls) == attack.passes(4)[0]


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


def noisy_classifier(size):
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((300,)), NoisyWeights(size)])


def test_averages_over_passes_that_draw_anew():
    x = np.full((4, 300), 0.5, np.float32)
    y = np.zeros(4, "int32")
    quiet, noisy = noisy_classifier(0.0), noisy_classifier(0.1)

    def signs(classifier, samples):
        attack = APGD(epsilon=1e-3, steps=1, eot_samples=samples)
        return np.sign(to_numpy(attack(classifier, x, y, seed=0)) - x)

    right = signs(quiet, 1)
    np.testing.assert_array_equal(signs(quiet, 3), right)
    # The noise of one pass is twice as large as the weights, that of the mean
    # over 60 passes a quarter of them.
    assert np.mean(signs(noisy, 1) == right) < 0.75
    assert np.mean(signs(noisy, 60) == right) > 0.85


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

"""FAB: exact where the boundary is a plane, and near it elsewhere."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from keras_wake.attacks import FAB
from keras_wake.utils.seeds import SampleSeed

FEATURES = 8


@pytest.fixture
def kernel():
    return np.random.default_rng(0).normal(size=(FEATURES, 4)).astype("float32")


@pytest.fixture
def linear(kernel):
    def network(x, training=False):
        return ops.matmul(x, ops.convert_to_tensor(kernel))

    return network


@pytest.fixture
def vectors():
    rng = np.random.default_rng(1)
    return rng.uniform(0.35, 0.65, (12, FEATURES)).astype("float32")


def _distances(kernel, x, norm):
    """Of each point from the planes of all wrong classes, sorted."""
    logits = x.astype("float64") @ kernel
    found = []
    for row in logits:
        y = np.argmax(row)
        found.append(
            sorted(
                (row[y] - row[t])
                / np.linalg.norm(
                    kernel[:, y] - kernel[:, t], 1 if norm == "linf" else 2
                )
                for t in range(4)
                if t != y
            )
        )
    return np.array(found)


def _sizes(delta, norm):
    return np.linalg.norm(delta, 2 if norm == "l2" else np.inf, axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_succeeds_exactly_where_a_plane_is_inside_the_ball(
    linear, kernel, vectors, norm
):
    nearest = _distances(kernel, vectors, norm)[:, 0]
    # Between two distances that are far enough from each other.
    ordered = np.sort(nearest)
    gaps = ordered[1:] / ordered[:-1]
    at = 3 + np.argmax(gaps[3:9])
    epsilon = np.sqrt(ordered[at] * ordered[at + 1])
    assert gaps[at] > 1.12
    labels = np.eye(4, dtype="float32")[
        np.argmax(to_numpy(linear(vectors)), axis=1)
    ]
    attack = FAB(norm, float(epsilon), steps=10)
    found = to_numpy(
        attack.perturb(
            linear, vectors, labels, SampleSeed(0, np.arange(len(vectors)))
        )
    )
    wrong = np.argmax(found @ kernel, axis=1) != np.argmax(labels, axis=1)
    np.testing.assert_array_equal(wrong, nearest < epsilon)
    # Nothing else is changed, and what is goes 5 % beyond the plane at most.
    np.testing.assert_array_equal(found[~wrong], vectors[~wrong])
    sizes = _sizes(found - vectors, norm)[wrong]
    assert np.all(sizes >= nearest[wrong] * (1 - 1e-5))
    assert np.all(sizes <= epsilon * (1 + 1e-6))


def test_each_stage_has_the_next_class_as_target(linear, kernel, vectors):
    logits = vectors @ kernel
    order = np.argsort(-logits, axis=1)
    labels = np.eye(4, dtype="float32")[order[:, 0]]
    seed = SampleSeed(0, np.arange(len(vectors)))
    # As far as the image allows, so that every target is reached.
    attack = FAB("l2", 2.0, steps=3)
    assert attack.stages_for(4) == 3
    for stage in range(3):
        found = to_numpy(
            attack.perturb_stage(linear, vectors, labels, seed, stage)
        )
        reached = found @ kernel
        target = np.take_along_axis(reached, order[:, [stage + 1]], axis=1)
        true = np.take_along_axis(reached, order[:, :1], axis=1)
        moved = np.any(found != vectors, axis=1)
        assert moved.sum() >= 9
        # Beyond the plane of its target, and not only of another class.
        assert np.mean(target[moved] > true[moved]) > 0.8


def test_a_restart_starts_elsewhere(linear, kernel, vectors):
    labels = np.eye(4, dtype="float32")[np.argmax(vectors @ kernel, axis=1)]
    seed = SampleSeed(0, np.arange(len(vectors)))
    attack = FAB("l2", 0.5, steps=1, restarts=2, target_classes=1)
    assert attack.stages_for(4) == 2
    first, second = (
        to_numpy(attack.perturb_stage(linear, vectors, labels, seed, stage))
        for stage in (0, 1)
    )
    both = np.any(first != vectors, axis=1) & np.any(second != vectors, axis=1)
    assert both.any()
    assert np.all(np.abs(first - second).max(axis=1)[both] > 1e-3)


def test_reaches_what_the_bounds_leave(linear, kernel):
    # At the corner of the box half of the directions are closed.
    x = np.zeros((1, FEATURES), "float32")
    x[0, ::2] = 1.0
    y = np.argmax(x @ kernel, axis=1)
    labels = np.eye(4, dtype="float32")[y]
    attack = FAB("linf", 1.0, steps=20)
    found = to_numpy(attack.perturb(linear, x, labels, SampleSeed(0, [0])))
    assert found.min() >= 0 and found.max() <= 1
    assert np.argmax(found @ kernel, axis=1) != y


def test_counts_its_stages_and_passes(vectors, linear):
    assert FAB(steps=7).passes(10) == (15, 7)
    for classes, targets in ((2, 1), (3, 2), (10, 9), (100, 9)):
        assert FAB().stages_for(classes) == targets
        assert FAB(restarts=3).stages_for(classes) == 3 * targets
    if keras.backend.backend() == "jax":
        return  # A loop is traced, and its calls cannot be counted.
    calls = []

    def counted(x, training=False):
        calls.append(1)
        return linear(x) + ops.convert_to_tensor(np.float32([50, 0, 0, 0]))

    labels = np.eye(4, dtype="float32")[[0] * len(vectors)]
    seed = SampleSeed(0, np.arange(len(vectors)))
    FAB(epsilon=0.01, steps=7).run_stage(
        counted,
        ops.convert_to_tensor(vectors),
        ops.convert_to_tensor(labels),
        seed,
        ops.zeros((), "int32"),
    )
    assert len(calls) == 15


class NumPyFAB:
    """The search of FAB-T for one point, from its description.

    A network tanh(x A) B in float64, and steps onto a hyperplane inside the
    bounds by bisection.
    """

    def __init__(self, first, second, y, t, norm, epsilon, bounds=(0.0, 1.0)):
        self.first, self.second, self.y, self.t = first, second, y, t
        self.norm, self.epsilon, self.bounds = norm, epsilon, bounds

    def logits(self, x):
        return np.tanh(x @ self.first) @ self.second

    def h_and_gradient(self, x):
        hidden = np.tanh(x @ self.first)
        towards = self.second[:, self.t] - self.second[:, self.y]
        return hidden @ towards, self.first @ (towards * (1 - hidden**2))

    def step(self, u, w, c):
        """The d of least norm with ⟨w, d⟩ = c and u + d inside the bounds."""
        direction = np.sign(c) * (np.sign(w) if self.norm == "linf" else w)

        def at(level):
            return np.clip(u + level * direction, *self.bounds) - u

        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if np.sign(c) * (w @ at(middle)) < abs(c)
                else (low, middle)
            )
        return at(high)

    def size(self, delta):
        return np.linalg.norm(delta, 2 if self.norm == "l2" else np.inf)

    def run(self, x, steps):
        """The first δ that is wrong inside the ball, and the sizes of all."""
        delta, sizes, crossings = np.zeros_like(x), [], 0
        for _ in range(steps):
            h, gradient = self.h_and_gradient(x + delta)
            from_here = self.step(x + delta, gradient, -h)
            from_clean = self.step(x, gradient, gradient @ delta - h)
            here, clean = self.size(from_here), self.size(from_clean)
            alpha = min(here / (here + clean), 0.1)
            delta = (1 - alpha) * (delta + 1.05 * from_here)
            delta = delta + alpha * 1.05 * from_clean
            delta = np.clip(x + delta, *self.bounds) - x
            if np.argmax(self.logits(x + delta)) != self.y:
                crossings += 1
                sizes.append(self.size(delta))
                if sizes[-1] <= self.epsilon:
                    return delta, sizes, crossings
                delta = 0.9 * delta
        return np.zeros_like(x), sizes, crossings


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.082), ("l2", 0.21)], ids=["linf", "l2"]
)
def test_equals_the_description(norm, epsilon):
    rng = np.random.default_rng(5)
    first = rng.normal(0, 1.5, (FEATURES, 8))
    second = rng.normal(0, 1, (8, 4))
    x = rng.random((40, FEATURES)).astype("float32")
    reference = NumPyFAB(first, second, 0, 0, norm, epsilon)
    y = np.argmax(reference.logits(x.astype("float64")), axis=1)

    def network(images, training=False):
        weights = (ops.convert_to_tensor(w, "float32") for w in (first, second))
        hidden = ops.tanh(ops.matmul(images, next(weights)))
        return ops.matmul(hidden, next(weights))

    attack = FAB(norm, epsilon, steps=12)
    found = to_numpy(
        attack.run_stage(
            network,
            ops.convert_to_tensor(x),
            ops.one_hot(y, 4, dtype="float32"),
            SampleSeed(0, np.arange(len(x))),
            ops.convert_to_tensor(0, "int32"),
        )
    )
    later, none = 0, 0
    for i, point in enumerate(x.astype("float64")):
        logits = reference.logits(point)
        logits[y[i]] = -np.inf
        single = NumPyFAB(first, second, y[i], logits.argmax(), norm, epsilon)
        expected, sizes, crossings = single.run(point, 12)
        # No size is so near to the radius that rounding could decide.
        assert np.abs(np.array(sizes) - epsilon).min(initial=1) > 1e-5
        # Float32 over up to twelve steps.
        np.testing.assert_allclose(found[i], expected, atol=2e-4)
        later += crossings > 1 and expected.any()
        none += not expected.any()
    # Points that turned back before they came near enough, and some that
    # never did.
    assert later >= 2 and none >= 2

"""FAB: exact where the boundary is a plane, and near it elsewhere."""

import keras
import numpy as np
import pytest
from attack_cases import norms
from attack_cases import SmoothNetwork
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from keras_wake.attacks import FAB
from keras_wake.utils.seeds import SampleSeed

FEATURES = 8
KERNEL = np.random.default_rng(0).normal(size=(FEATURES, 4)).astype("float32")
VECTORS = np.random.default_rng(1).uniform(0.35, 0.65, (12, FEATURES))
VECTORS = VECTORS.astype("float32")
# The classes of each vector, the right one first.
ORDER = np.argsort(-VECTORS @ KERNEL, axis=1)
LABELS = np.eye(4, dtype="float32")[ORDER[:, 0]]
SEED = SampleSeed(0, np.arange(12))


def linear(x, training=False):
    return ops.matmul(x, ops.convert_to_tensor(KERNEL))


def _nearest(x, norm):
    """The distance of each point from the planes of all wrong classes."""
    logits, kernel = x.astype("float64") @ KERNEL, KERNEL.T
    order = 1 if norm == "linf" else 2
    return np.array(
        [
            min(
                (row[y] - row[t]) / np.linalg.norm(kernel[y] - kernel[t], order)
                for t in range(4)
                if t != y
            )
            for row, y in zip(logits, logits.argmax(axis=1), strict=True)
        ]
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_succeeds_exactly_where_a_plane_is_inside_the_ball(norm):
    nearest = _nearest(VECTORS, norm)
    # Between two distances that are far enough from each other.
    ordered = np.sort(nearest)
    gaps = ordered[1:] / ordered[:-1]
    at = 3 + np.argmax(gaps[3:9])
    epsilon = np.sqrt(ordered[at] * ordered[at + 1])
    assert gaps[at] > 1.12
    attack = FAB(norm, float(epsilon), steps=10)
    found = to_numpy(attack.perturb(linear, VECTORS, LABELS, SEED))
    wrong = np.argmax(found @ KERNEL, axis=1) != ORDER[:, 0]
    np.testing.assert_array_equal(wrong, nearest < epsilon)
    # Nothing else is changed, and what is goes 5 % beyond the plane at most.
    np.testing.assert_array_equal(found[~wrong], VECTORS[~wrong])
    sizes = norms(found - VECTORS, norm)[wrong]
    assert np.all(sizes >= nearest[wrong] * (1 - 1e-5))
    assert np.all(sizes <= epsilon * (1 + 1e-6))


def test_each_stage_has_the_next_class_as_target():
    # As far as the image allows, so that every target is reached.
    attack = FAB("l2", 2.0, steps=3)
    assert attack.stages_for(4) == 3
    for stage in range(3):
        found = attack.perturb_stage(linear, VECTORS, LABELS, SEED, stage)
        found = to_numpy(found)
        reached = np.take_along_axis(found @ KERNEL, ORDER, axis=1)
        moved = np.any(found != VECTORS, axis=1)
        assert moved.sum() >= 9
        # Beyond the plane of its target, and not only of another class.
        beyond = reached[moved, stage + 1] > reached[moved, 0]
        assert np.mean(beyond) > 0.8


def test_a_restart_starts_elsewhere():
    attack = FAB("l2", 0.5, steps=1, restarts=2, target_classes=1)
    assert attack.stages_for(4) == 2
    first, second = (
        to_numpy(attack.perturb_stage(linear, VECTORS, LABELS, SEED, stage))
        for stage in (0, 1)
    )
    both = np.any(first != VECTORS, axis=1) & np.any(second != VECTORS, axis=1)
    assert both.any()
    assert np.all(np.abs(first - second).max(axis=1)[both] > 1e-3)


def test_reaches_what_the_bounds_leave():
    # At the corner of the box half of the directions are closed.
    x = np.zeros((1, FEATURES), "float32")
    x[0, ::2] = 1.0
    y = np.argmax(x @ KERNEL, axis=1)
    labels = np.eye(4, dtype="float32")[y]
    attack = FAB("linf", 1.0, steps=20)
    found = to_numpy(attack.perturb(linear, x, labels, SampleSeed(0, [0])))
    assert found.min() >= 0 and found.max() <= 1
    assert np.argmax(found @ KERNEL, axis=1) != y


def test_counts_its_stages_and_passes():
    attack = FAB(epsilon=0.01, steps=7)
    assert attack.passes(10) == (15, 7)
    for classes, targets in ((2, 1), (3, 2), (10, 9), (100, 9)):
        assert FAB().stages_for(classes) == targets
        assert FAB(restarts=3).stages_for(classes) == 3 * targets
    if keras.backend.backend() == "jax":
        return  # A loop is traced, and its calls cannot be counted.
    calls = []

    def counted(x, training=False):
        calls.append(1)
        return linear(x) + ops.convert_to_tensor(np.float32([50, 0, 0, 0]))

    x = ops.convert_to_tensor(VECTORS)
    labels = ops.one_hot(np.zeros(12, "int32"), 4)
    attack.run_stage(counted, x, labels, SEED, ops.zeros((), "int32"))
    assert len(calls) == 15


def numpy_fab(network, x, y, t, norm, epsilon, steps):
    """The search of FAB-T for one point, in float64, from its description.

    Steps onto a hyperplane inside [0, 1] are found by bisection. Returns the
    first δ that is wrong inside the ball, and the sizes of all that are wrong.
    """

    def shortest(u, w, c):
        """The d of least norm with ⟨w, d⟩ = c and u + d inside the bounds."""
        direction = np.sign(c) * (np.sign(w) if norm == "linf" else w)

        def at(level):
            return np.clip(u + level * direction, 0, 1) - u

        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            if np.sign(c) * (w @ at(middle)) < abs(c):
                low = middle
            else:
                high = middle
        return at(high)

    order = 2 if norm == "l2" else np.inf
    towards = np.eye(4)[t] - np.eye(4)[y]
    delta, sizes = np.zeros_like(x), []
    for _ in range(steps):
        h = network.logits(x + delta) @ towards
        gradient = network.gradient(x + delta, towards)
        from_here = shortest(x + delta, gradient, -h)
        from_clean = shortest(x, gradient, gradient @ delta - h)
        here, clean = np.linalg.norm([from_here, from_clean], order, axis=1)
        alpha = min(here / (here + clean), 0.1)
        delta = (1 - alpha) * (delta + 1.05 * from_here)
        delta = delta + alpha * 1.05 * from_clean
        delta = np.clip(x + delta, 0, 1) - x
        if np.argmax(network.logits(x + delta)) != y:
            sizes.append(np.linalg.norm(delta, order))
            if sizes[-1] <= epsilon:
                return delta, sizes
            delta = 0.9 * delta
    return np.zeros_like(x), sizes


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.082), ("l2", 0.21)], ids=["linf", "l2"]
)
def test_equals_the_description(norm, epsilon):
    rng = np.random.default_rng(5)
    first = rng.normal(0, 1.5, (FEATURES, 8))
    network = SmoothNetwork(first, rng.normal(0, 1, (8, 4)))
    x = rng.random((40, FEATURES)).astype("float32")
    second, y = np.argsort(network.logits(x.astype("float64")))[:, -2:].T
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
        expected, sizes = numpy_fab(
            network, point, y[i], second[i], norm, epsilon, steps=12
        )
        # No size is so near to the radius that rounding could decide.
        assert np.abs(np.array(sizes) - epsilon).min(initial=1) > 1e-5
        # Float32 over up to twelve steps.
        np.testing.assert_allclose(found[i], expected, atol=2e-4)
        later += len(sizes) > 1 and expected.any()
        none += not expected.any()
    # Points that turned back before they came near enough, and some that
    # never did.
    assert later >= 2 and none >= 2

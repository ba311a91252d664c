"""Steps onto a hyperplane in a box, against solvers that know neither."""

import numpy as np
import pytest
from attack_cases import norms
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras.ops import convert_to_numpy as to_numpy
from scipy import optimize

from keras_wake.attacks.fab import shortest_steps

# Of 40 problems at once: a call costs more than a problem.
PROBLEMS = 40


def _problems(size, seed, low, high, reach):
    """Points, normals with zeros among them, and gains up to the corner."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, (PROBLEMS, size))
    at_bound = rng.random(x.shape)
    x[at_bound < 0.1] = low
    x[at_bound > 0.9] = high
    w = rng.normal(size=x.shape) * 10.0 ** rng.uniform(-2, 1, (PROBLEMS, 1))
    w[rng.random(x.shape) < 0.2] = 0
    x, w = x.astype("float32"), w.astype("float32")
    sign = rng.choice([-1.0, 1.0], PROBLEMS)
    room = np.where(w * sign[:, None] > 0, high - x, x - low)
    largest = np.sum(np.abs(w) * room, axis=1)
    c = sign * largest * rng.uniform(0, reach, PROBLEMS)
    return x, w, c.astype("float32"), largest


def _by_linear_programming(x, w, c, low, high):
    """Least r with ⟨w, d⟩ = c, −r ≤ d_i ≤ r, in the box."""
    size = len(x)
    ones = np.ones((size, 1))
    both = np.vstack(
        [np.hstack([np.eye(size), -ones]), np.hstack([-np.eye(size), -ones])]
    )
    result = optimize.linprog(
        np.append(np.zeros(size), 1),
        A_ub=both,
        b_ub=np.zeros(2 * size),
        A_eq=np.append(w, 0)[None],
        b_eq=[c],
        bounds=[*zip(low - x, high - x, strict=True), (0, None)],
    )
    return result.fun if result.status == 0 else None


def _by_quadratic_programming(x, w, c, low, high):
    """Least ‖d‖ with ⟨w, d⟩ = c, in the box."""
    scale = np.abs(w).max()
    result = optimize.minimize(
        lambda d: d @ d,
        np.zeros(len(x)),
        jac=lambda d: 2 * d,
        bounds=list(zip(low - x, high - x, strict=True)),
        constraints={
            "type": "eq",
            "fun": lambda d: (w @ d - c) / scale,
            "jac": lambda d: w / scale,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.sqrt(result.fun) if result.success else None


def _step(norm, x, w, c, bounds=(0.0, 1.0)):
    return to_numpy(shortest_steps(norm, x, w, c, bounds))


@pytest.mark.parametrize(
    ("norm", "solve"),
    [("linf", _by_linear_programming), ("l2", _by_quadratic_programming)],
    ids=["linf", "l2"],
)
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_is_the_shortest(norm, solve, size):
    low, high = -0.5, 1.0
    x, w, c, largest = _problems(size, size, low, high, reach=0.99)
    d = _step(norm, x, w, c, (low, high)).astype("float64")
    compared = 0
    for row in np.flatnonzero(largest >= 1e-3):
        expected = solve(
            *(v[row].astype("float64") for v in (x, w, c)), low, high
        )
        if expected is None:  # SLSQP gives up on some.
            continue
        compared += 1
        np.testing.assert_allclose(
            norms(d[row : row + 1], norm), expected, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            w[row] @ d[row], c[row], atol=1e-5 * largest[row]
        )
    assert compared > PROBLEMS / 2


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    low=st.floats(-1, 0.5),
    width=st.floats(1e-2, 2),
    reach=st.floats(0, 2),
)
@example("linf", 5, 0, 0.0, 1.0, 0.0)
@example("l2", 5, 0, 0.0, 1.0, 0.0)
def test_stays_in_the_box_and_gains_what_it_can(
    norm, size, seed, low, width, reach
):
    high = low + width
    x, w, c, largest = _problems(size, seed, low, high, reach)
    d = _step(norm, x, w, c, (low, high)).astype("float64")
    assert np.isfinite(d).all()
    assert (x + d).min() >= low - 1e-6 and (x + d).max() <= high + 1e-6
    gained = np.sum(w * d, axis=1)
    expected = np.clip(c, -largest, largest)
    assert np.all(np.abs(gained - expected) <= 1e-5 * largest + 1e-7)


def _by_sorting(norm, x, w, c):
    """The step in [0, 1] of one point, in float64: by its sorted knots."""
    sign = np.sign(w) * np.sign(c)
    room = np.where(sign > 0, 1 - x, x)
    speed = np.abs(w) if norm == "l2" else np.ones_like(w)
    slope = np.abs(w) * speed
    knots = np.divide(room, speed, where=speed > 0, out=np.zeros_like(x))
    gained = [np.sum(slope * np.minimum(knot, knots)) for knot in knots]
    level = np.interp(abs(c), *np.sort([[0.0, *gained], [0.0, *knots]]))
    return sign * np.minimum(level * speed, room)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_takes_many_knots_and_equal_ones(norm):
    rng = np.random.default_rng(4)
    # Pixels of 8 bits: many coordinates have the same room, or none at all.
    x = rng.integers(0, 256, (6, 3072)) / 255
    x[::2] = np.clip(2 * x[::2] - 0.5, 0, 1)
    w = rng.normal(size=x.shape) * rng.integers(0, 2, x.shape)
    w[:3] = np.round(2 * w[:3])
    x, w = x.astype("float32"), w.astype("float32")
    largest = np.sum(np.abs(w) * np.where(w > 0, 1 - x, x), axis=1)
    for share in (0, 1e-6, 0.02, 0.5, 0.999):
        c = (share * largest).astype("float32")
        found = _step(norm, x, w, c)
        for row in range(6):
            points = (v[row].astype("float64") for v in (x, w, c))
            expected = _by_sorting(norm, *points)
            # Sums of 3072 numbers in float32; seen: 2e-5.
            np.testing.assert_allclose(found[row], expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_depends_on_its_own_row_and_on_no_scale(norm):
    x, w, c, _ = _problems(6, 3, 0.0, 1.0, 0.9)
    d = _step(norm, x, w, c)
    assert d.shape == (PROBLEMS, 6)
    for factor in np.float32([1e-12, 1e12]):
        scaled = _step(norm, x, factor * w, factor * c)
        np.testing.assert_allclose(scaled, d, rtol=1e-3, atol=1e-5)
    alone = _step(norm, x[3:4], w[3:4], c[3:4])
    np.testing.assert_allclose(alone, d[3:4], atol=1e-6)
    # Without a normal there is no step, whatever is to be gained.
    c[0] = 0
    d = _step(norm, x, np.zeros_like(x), c)
    np.testing.assert_array_equal(d, np.zeros_like(x))

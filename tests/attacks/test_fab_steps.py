"""Steps onto a hyperplane in a box, against solvers that know neither."""

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import optimize

from keras_wake.attacks.fab import shortest_steps


def linf_step(x, w, c, bounds=(0.0, 1.0)):
    return shortest_steps("linf", x, w, c, bounds)


def l2_step(x, w, c, bounds=(0.0, 1.0)):
    return shortest_steps("l2", x, w, c, bounds)


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


@pytest.mark.parametrize(
    ("step", "solve", "order"),
    [
        (linf_step, _by_linear_programming, np.inf),
        (l2_step, _by_quadratic_programming, 2),
    ],
    ids=["linf", "l2"],
)
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_is_the_shortest(step, solve, order, size):
    low, high = -0.5, 1.0
    x, w, c, largest = _problems(size, size, low, high, reach=0.99)
    d = to_numpy(step(x, w, c, (low, high))).astype("float64")
    compared = 0
    for row in range(PROBLEMS):
        if largest[row] < 1e-3:
            continue
        expected = solve(
            *(v[row].astype("float64") for v in (x, w, c)), low, high
        )
        if expected is None:  # SLSQP gives up on some.
            continue
        compared += 1
        found = np.linalg.norm(d[row], order)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            w[row] @ d[row], c[row], atol=1e-5 * largest[row]
        )
    assert compared > PROBLEMS / 2


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    step=st.sampled_from([linf_step, l2_step]),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    low=st.floats(-1, 0.5),
    width=st.floats(1e-2, 2),
    reach=st.floats(0, 2),
)
@example(linf_step, 5, 0, 0.0, 1.0, 0.0)
@example(l2_step, 5, 0, 0.0, 1.0, 0.0)
def test_stays_in_the_box_and_gains_what_it_can(
    step, size, seed, low, width, reach
):
    high = low + width
    x, w, c, largest = _problems(size, seed, low, high, reach)
    d = to_numpy(step(x, w, c, (low, high))).astype("float64")
    assert np.isfinite(d).all()
    assert (x + d).min() >= low - 1e-6 and (x + d).max() <= high + 1e-6
    gained = np.sum(w * d, axis=1)
    expected = np.clip(c, -largest, largest)
    assert np.all(np.abs(gained - expected) <= 1e-5 * largest + 1e-7)


@pytest.mark.parametrize("step", [linf_step, l2_step])
def test_no_normal_is_no_step(step):
    x = np.full((2, 4), 0.5, "float32")
    d = to_numpy(step(x, np.zeros_like(x), np.float32([1.0, 0.0])))
    np.testing.assert_array_equal(d, np.zeros_like(x))


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("step", [linf_step, l2_step])
def test_does_not_depend_on_the_scale_of_the_normal(step, factor):
    x, w, c, _ = _problems(6, 3, 0.0, 1.0, 0.9)
    factor = np.float32(factor)
    np.testing.assert_allclose(
        to_numpy(step(x, factor * w, factor * c)),
        to_numpy(step(x, w, c)),
        rtol=1e-3,
        atol=1e-5,
    )


def test_treats_each_row_for_itself():
    x, w, c, _ = _problems(6, 4, 0.0, 1.0, 0.9)
    for step in (linf_step, l2_step):
        together = to_numpy(step(x, w, c))
        alone = to_numpy(step(x[3:4], w[3:4], c[3:4]))
        np.testing.assert_allclose(alone, together[3:4], atol=1e-6)
    assert ops.shape(together) == (PROBLEMS, 6)

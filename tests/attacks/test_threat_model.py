"""The threat model: distributions, projections, and arguments it refuses."""

import math

import numpy as np
import pytest
from attack_cases import norms
from scipy import stats

from keras_wake.attacks import ThreatModel
from keras_wake.utils.seeds import CounterSeed

# Below this a distribution test fails. Of some ten comparisons a right
# distribution fails one with probability 1 %; a wrong one (a Gaussian radius,
# directions from a cube) is at 1e-10 and less. The seeds are fixed.
SIGNIFICANCE = 1e-3


def _draw(norm, epsilon, shape, seed=0):
    threat = ThreatModel(norm, epsilon, bounds=(-10.0, 10.0))
    images = np.zeros(shape, "float32")
    return np.asarray(threat.random_perturbation(images, CounterSeed(seed)))


def test_linf_start_is_uniform_in_the_cube():
    delta = _draw("linf", 0.3, (500, 4, 2, 1)).reshape(500, 8)
    result = stats.kstest(delta.ravel(), "uniform", (-0.3, 0.6))
    assert result.pvalue > SIGNIFICANCE
    # Pixels, and images, are drawn each for themselves.
    assert stats.pearsonr(delta[:, 0], delta[:, 1]).pvalue > SIGNIFICANCE
    assert stats.pearsonr(delta[:-1, 0], delta[1:, 0]).pvalue > SIGNIFICANCE


def test_l2_start_has_a_uniform_radius_and_an_isotropic_direction():
    delta = _draw("l2", 0.7, (20000, 1, 3, 1)).reshape(20000, 3)
    radii = norms(delta, "l2")
    assert stats.kstest(radii, "uniform", (0, 0.7)).pvalue > SIGNIFICANCE
    direction = delta / radii[:, None]
    # On the sphere in three dimensions each coordinate is uniform
    # (Archimedes), along any axis.
    for axis in (*np.eye(3), np.ones(3) / math.sqrt(3)):
        result = stats.kstest(direction @ axis, "uniform", (-1, 2))
        assert result.pvalue > SIGNIFICANCE
    assert stats.pearsonr(radii, direction[:, 0]).pvalue > SIGNIFICANCE


def test_a_start_stays_within_the_bounds():
    threat = ThreatModel("linf", 0.5)
    images = np.zeros((100, 3), "float32")
    delta = np.asarray(threat.random_perturbation(images, CounterSeed(0)))
    assert delta.min() == 0
    assert 0.4 < delta.max() <= 0.5


def test_projects_onto_ball_and_bounds():
    images = np.array([[0.5, 0.125, 0.875, 0.5]], "float32")
    delta = np.array([[0.375, -0.375, 0.25, 0.125]], "float32")
    projected = ThreatModel("linf", 0.25).project(delta, images)
    # Exact: all values are binary fractions.
    np.testing.assert_array_equal(projected, [[0.25, -0.125, 0.125, 0.125]])
    images = np.array([[0.0, 0.0], [0.0, 0.0], [0.75, 0.0]], "float32")
    delta = np.array([[3.0, 4.0], [0.3, 0.4], [3.0, -4.0]], "float32")
    projected = ThreatModel("l2", 1.0, (-1.0, 1.0)).project(delta, images)
    # The last: (0.6, −0.8) after the ball, then cut off at 1 − 0.75. The
    # tolerance is float32's.
    np.testing.assert_allclose(
        projected, [[0.6, 0.8], [0.3, 0.4], [0.25, -0.8]], atol=1e-7
    )


def test_steepest_has_norm_one_and_leaves_a_zero_gradient():
    gradient = np.array([[3.0, -4.0], [0.0, 0.0]], "float32")
    linf = ThreatModel("linf").steepest(gradient)
    np.testing.assert_array_equal(linf, [[1, -1], [0, 0]])
    l2 = ThreatModel("l2").steepest(gradient)
    np.testing.assert_allclose(l2, [[0.6, -0.8], [0, 0]], atol=1e-7)


def test_size_is_the_norm_of_each_sample():
    delta = np.random.default_rng(0).normal(size=(3, 2, 4, 1))
    for norm in "linf", "l2":
        found = ThreatModel(norm).size(delta.astype("float32"))
        # Float32 against float64.
        np.testing.assert_allclose(found, norms(delta, norm), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"norm": "l1"},
            ValueError,
            "`norm` must be one of 'linf', 'l2'.*'l1'",
        ),
        ({"norm": 2}, ValueError, "`norm` must be one of.*norm=2"),
        (
            {"epsilon": -0.1},
            ValueError,
            r"`epsilon` must be between 0 and 1\. Received: epsilon=-0\.1",
        ),
        ({"epsilon": 8}, ValueError, r"between 0 and 1.*epsilon=8\..*8/255"),
        ({"epsilon": 2.5, "bounds": (-1, 1)}, ValueError, r"between 0 and 2\."),
        ({"norm": "l2", "epsilon": -1}, ValueError, "must be at least 0"),
        ({"epsilon": math.nan}, ValueError, "`epsilon` must be finite"),
        ({"norm": "l2", "epsilon": math.inf}, ValueError, "must be finite"),
        ({"epsilon": True}, TypeError, "`epsilon` must be a real number.*True"),
        ({"epsilon": "8/255"}, TypeError, "a real number.*'8/255'"),
        (
            {"bounds": (1.0, 0.0)},
            ValueError,
            r"`bounds` must be two ascending numbers.*\(1\.0, 0\.0\)",
        ),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ThreatModel(**arguments)


@pytest.mark.parametrize(
    "bounds",
    [(0.5, 0.5), (0.0, math.nan), (0, 1, 2), 1.0, None, "01", (False, True)],
)
def test_refuses_bounds_that_are_not_two_ascending_numbers(bounds):
    with pytest.raises(ValueError, match="`bounds` must be two ascending numb"):
        ThreatModel(bounds=bounds)


def test_the_whole_range_is_allowed():
    assert ThreatModel("linf", 1).epsilon == 1
    assert ThreatModel("linf", 255, bounds=(0, 255)).epsilon == 255
    ThreatModel("l2", 2.0).check_images(np.zeros((1, 2, 2, 1)))

"""Where the attack on the divergence starts: 0.001 times Gaussian noise."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy
from scipy import stats

from keras_wake.attacks import PGD

pytestmark = pytest.mark.usefixtures("eagerly")
COUNT = 200


def start(norm, epsilon, classifier, x, seed=0):
    """δ_0: with steps of length 0 the attack stays there."""
    attack = PGD(norm, epsilon, step_size=0.0, steps=1, loss="kl")
    labels = np.zeros(len(x), "int32")
    return convert_to_numpy(attack(classifier, x, labels, seed=seed)) - x


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.5)])
def test_start_is_gaussian_of_the_published_size(norm, epsilon, classifier):
    # In the middle of [0, 1], so that nothing is clipped.
    x = np.full((COUNT, 6, 6, 1), 0.5, "float32")
    found = start(norm, epsilon, classifier, x).ravel()
    # 7200 values: 4 standard errors of the deviation are 3.4 %.
    assert found.std() == pytest.approx(1e-3, rel=0.034)
    assert abs(found.mean()) < 4 * 1e-3 / np.sqrt(found.size)
    assert stats.kstest(found / 1e-3, "norm").pvalue > 1e-3
    other = start(norm, epsilon, classifier, x, seed=1).ravel()
    assert abs(np.corrcoef(found, other)[0, 1]) < 0.1


def test_start_is_clipped_to_the_ball_and_to_the_pixels(classifier):
    x = np.zeros((COUNT, 6, 6, 1), "float32")
    found = start("linf", 5e-4, classifier, x)
    assert found.min() == 0
    assert found.max() == pytest.approx(5e-4, rel=1e-4)

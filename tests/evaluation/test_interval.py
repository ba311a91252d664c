"""Wilson's interval against SciPy's."""

import pytest
from scipy import stats

from keras_wake.evaluation import wilson_interval


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("samples", [1, 7, 500])
def test_equals_scipy(samples, confidence):
    for successes in {0, 1, samples // 3, samples}:
        expected = stats.binomtest(successes, samples).proportion_ci(
            confidence, method="wilson"
        )
        assert wilson_interval(successes, samples, confidence) == pytest.approx(
            (expected.low, expected.high), abs=1e-12
        )


def test_stays_within_zero_and_one_and_is_not_empty():
    low, high = wilson_interval(0, 10)
    assert low == 0 and 0 < high < 1
    low, high = wilson_interval(10, 10)
    assert 0 < low < 1 and high == 1


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((3, 2), ValueError, "at most `samples`.*successes=3, samples=2"),
        ((0, 0), ValueError, "`samples` must be at least 1"),
        ((-1, 2), ValueError, "`successes` must be at least 0"),
        ((1, 2, 1.0), ValueError, "`confidence` must be at least 0 and below"),
        ((0.5, 2), TypeError, "`successes` must be an integer"),
    ],
)
def test_refuses_what_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        wilson_interval(*arguments)

"""The metric that accumulates CAS against the stand-alone functions."""

import numpy as np
import pytest

from keras_wake import attribution
from keras_wake.attribution.metric import ClassAttributionSimilarity

CLASSES, FEATURES = 4, 6
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, 20)
X = RNG.normal(1, 1, (20, FEATURES)).astype("float32")
KERNEL = RNG.normal(size=(FEATURES, CLASSES)).astype("float32")


def metric_of(*batches):
    metric = ClassAttributionSimilarity(CLASSES, FEATURES, name="cas")
    for batch in batches:
        update(metric, batch)
    return metric


def update(metric, batch):
    """With the samples of these numbers."""
    one_hot = np.eye(CLASSES, dtype="float32")[LABELS[batch]]
    metric.update_state(one_hot, X[batch], KERNEL)


@pytest.mark.filterwarnings("ignore:.* of 4 classes", "ignore:.* entries of")
@pytest.mark.parametrize("present", [{0, 1, 2, 3}, {0, 2, 3}])
def test_equals_the_stand_alone_functions(present):
    kept = np.flatnonzero(np.isin(LABELS, list(present)))
    # Batches of unequal size.
    metric = metric_of(*np.split(kept, [9, 13]))
    # Class means of g(x) ⊙ W[y]; NaN without samples.
    samples = X.astype("float64") * KERNEL.T[LABELS]
    vectors = np.full((CLASSES, FEATURES), np.nan)
    for label in present:
        vectors[label] = samples[LABELS == label].mean(axis=0)
    matrix = attribution.cosine_matrix(vectors)
    # Float32 against float64.
    np.testing.assert_allclose(metric.matrix(), matrix, atol=1e-6)
    expected = attribution.cas(matrix)
    assert expected > 0.1
    assert float(metric.result()) == pytest.approx(expected, abs=1e-5)
    assert np.sum(metric.counts) == len(kept)


def test_starts_anew_after_a_reset():
    first, second = np.split(np.arange(20), [9])
    metric = metric_of(first, second)
    whole = float(metric.result())
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    update(metric, first)
    assert float(metric.result()) == float(metric_of(first).result()) != whole


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        # cos of 45 degrees, counted for both orders.
        ([[1, 0], [1, 1], [np.nan, 1]], np.sqrt(2)),
        ([[1, 1], [1, 1], [0, 0]], 2),
        # A single class has no score.
        ([[1, 1], [0, 0], [0, 0]], np.nan),
        ([[0, 0], [0, 0], [0, 0]], np.nan),
    ],
)
def test_leaves_out_what_cas_leaves_out(sums, expected):
    metric = ClassAttributionSimilarity(3, 2, name="cas")
    metric.sums.assign(np.array(sums, "float32"))
    with pytest.warns(UserWarning, match="NaN"):
        found = [float(metric.result()), attribution.cas(metric.matrix())]
    # Float32.
    np.testing.assert_allclose(found, [expected] * 2, rtol=0, atol=1e-6)

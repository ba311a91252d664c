"""The metric that accumulates CAS against the stand-alone functions."""

import numpy as np
import pytest

from keras_wake import attribution
from keras_wake.attribution.metric import ClassAttributionSimilarity

CLASSES, FEATURES = 4, 6


@pytest.fixture
def batches():
    """(labels, features) of three batches of unequal size."""
    rng = np.random.default_rng(0)
    return [
        (
            np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, size)],
            rng.normal(1, 1, (size, FEATURES)).astype("float32"),
        )
        for size in (9, 4, 7)
    ]


@pytest.fixture
def kernel():
    rng = np.random.default_rng(1)
    return rng.normal(size=(FEATURES, CLASSES)).astype("float32")


def _vectors(batches, kernel):
    """Class means of g(x) ⊙ W[y] in NumPy; NaN without samples."""
    labels = np.concatenate([batch[0] for batch in batches]).argmax(axis=1)
    features = np.concatenate([batch[1] for batch in batches])
    samples = features.astype("float64") * kernel.T[labels]
    vectors = np.full((CLASSES, FEATURES), np.nan)
    for label in set(labels):
        vectors[label] = samples[labels == label].mean(axis=0)
    return vectors


def _metric(batches, kernel):
    metric = ClassAttributionSimilarity(CLASSES, FEATURES, name="cas")
    for labels, features in batches:
        metric.update_state(labels, features, kernel)
    return metric


def test_equals_the_stand_alone_functions(batches, kernel):
    metric = _metric(batches, kernel)
    matrix = attribution.cosine_matrix(_vectors(batches, kernel))
    # Float32 against float64.
    np.testing.assert_allclose(metric.matrix(), matrix, atol=1e-6)
    expected = attribution.cas(matrix)
    assert expected > 0.1
    assert float(metric.result()) == pytest.approx(expected, abs=1e-5)
    assert np.sum(metric.counts) == 20


def test_starts_anew_after_a_reset(batches, kernel):
    metric = _metric(batches, kernel)
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    metric.update_state(*batches[0], kernel)
    expected = _metric(batches[:1], kernel)
    assert float(metric.result()) == float(expected.result())
    assert float(metric.result()) != float(_metric(batches, kernel).result())


@pytest.mark.filterwarnings("ignore:.* of 4 classes", "ignore:.* entries of")
def test_leaves_out_a_class_without_samples(batches, kernel):
    batches = [
        (labels[labels[:, 1] == 0], features[labels[:, 1] == 0])
        for labels, features in batches
    ]
    metric = _metric(batches, kernel)
    matrix = attribution.cosine_matrix(_vectors(batches, kernel))
    assert np.isnan(matrix[1, 0])
    np.testing.assert_allclose(metric.matrix(), matrix, atol=1e-6)
    expected = attribution.cas(matrix)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-5)


def test_a_vector_that_is_not_finite_is_left_out():
    metric = ClassAttributionSimilarity(3, 2, name="cas")
    metric.sums.assign([[1.0, 0.0], [1.0, 1.0], [np.nan, 1.0]])
    # cos of 45 degrees, counted for both orders; float32.
    expected = pytest.approx(np.sqrt(2), abs=1e-6)
    assert float(metric.result()) == expected
    with pytest.warns(UserWarning, match="NaN"):
        assert attribution.cas(metric.matrix()) == expected


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_single_class_has_no_score(left):
    metric = ClassAttributionSimilarity(4, 2, name="cas")
    sums = np.zeros((4, 2), "float32")
    sums[:left] = 1.0
    metric.sums.assign(sums)
    with pytest.warns(UserWarning, match="NaN"):
        expected = attribution.cas(metric.matrix())
    assert np.isnan(expected) == (left < 2)
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)

"""The order and the numbers of samples come from what they are."""

import numpy as np
import pytest

from keras_wake.evaluation.compiled_classifier import collect

RNG = np.random.default_rng(0)
X = RNG.random((20, 4, 4, 1)).astype("float32")
Y = RNG.integers(0, 3, 20)


@pytest.fixture(scope="module")
def collected(model):
    return lambda data: collect(model, data, 3, (0.0, 1.0), 8)


def test_order_of_the_data_does_not_matter(collected):
    first, order = collected((X, Y)), RNG.permutation(20)
    second = collected((X[order], Y[order]))
    for name in ("images", "labels", "classes", "ids", "digest"):
        np.testing.assert_array_equal(
            getattr(first, name), getattr(second, name)
        )
    # Values for the sorted samples come back in the order of the data.
    for values, expected in ((second.images, X), (second.classes, Y)):
        found = second.in_order_of_data(values)
        np.testing.assert_array_equal(found, expected[order])


def test_numbers_differ_and_fit_into_int32(collected):
    first = collected((X, Y))
    assert len(set(first.ids.tolist())) == 20
    assert first.ids.dtype == np.int32 and (first.ids >= 0).all()
    # An image under another label is another sample.
    other = collected((X, (Y + 1) % 3))
    assert not set(first.ids.tolist()) & set(other.ids.tolist())
    assert other.digest != first.digest
    # The same image twice is two samples with one number.
    twice = collected((np.concatenate([X, X[:1]]), np.append(Y, Y[0])))
    assert len(set(twice.ids.tolist())) == 20
    assert sorted(twice.places.tolist()) == list(range(21))


def test_reads_arrays_and_batches_and_soft_labels(collected):
    soft = 0.1 + 0.7 * np.eye(3, dtype="float32")[Y]
    batches = [(X[:9], soft[:9]), (X[9:], soft[9:])]
    # The end of a pipeline whose batches all have one size.
    rest = [*range(12, 20), 0, 0, 0, 0]
    padded = [
        (X[:12], Y[:12], np.ones(12)),
        (X[rest], Y[rest], np.arange(12) < 8),
        (X[:12], Y[:12], np.zeros(12)),
    ]
    for data in ((X, soft), batches, iter(batches), padded):
        found = collected(data)
        assert found.digest == collected((X, Y)).digest
        np.testing.assert_array_equal(found.labels, np.eye(3)[found.classes])
    for x, y, message in (
        (X.reshape(20, 16), Y, r"shape \(batch, 4, 4, 1\).*\(20, 16\)"),
        (2 * X, Y, "outside the bounds"),
        (X, Y[:3], "20 images and 3 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            collected((x, y))

"""The order and the numbers of samples come from what they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from linear_case import linear_model

from keras_wake.evaluation.samples import collect
from keras_wake.evaluation.samples import sort

RNG = np.random.default_rng(0)
X = RNG.random((20, 4, 4, 1)).astype("float32")
Y = RNG.integers(0, 3, 20)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(20)))
def test_order_of_the_data_does_not_matter(order):
    first = sort(X, Y, 3)
    second = sort(X[order], Y[order], 3)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.classes, second.classes)
    np.testing.assert_array_equal(first.ids, second.ids)
    assert first.digest == second.digest
    # Values for the sorted samples come back in the order of the data.
    np.testing.assert_array_equal(first.in_order_of_data(first.images), X)
    np.testing.assert_array_equal(
        second.in_order_of_data(second.classes), Y[order]
    )


def test_numbers_differ_and_fit_into_int32():
    ids = sort(X, Y, 3).ids
    assert len(set(ids.tolist())) == 20
    assert ids.dtype == np.int32 and (ids >= 0).all()
    # An image under another label is another sample.
    other = sort(X, (Y + 1) % 3, 3)
    assert not set(ids.tolist()) & set(other.ids.tolist())
    assert other.digest != sort(X, Y, 3).digest


def test_same_image_twice_is_two_samples_with_one_number():
    samples = sort(np.concatenate([X, X[:1]]), np.append(Y, Y[0]), 3)
    assert len(samples) == 21 and len(set(samples.ids.tolist())) == 20
    assert sorted(samples.places.tolist()) == list(range(21))


def test_reads_arrays_and_batches_and_soft_labels():
    model = linear_model()

    def collected(data):
        return collect(model, data, 3, (0.0, 1.0), 8)

    soft = 0.1 + 0.7 * np.eye(3, dtype="float32")[Y]
    batches = [(X[:9], soft[:9]), (X[9:], soft[9:])]
    # The end of a pipeline whose batches all have one size.
    rest = [*range(12, 20), 0, 0, 0, 0]
    padded = [
        (X[:12], Y[:12], np.ones(12)),
        (X[rest], Y[rest], np.arange(12) < 8),
        (X[:12], Y[:12], np.zeros(12)),
    ]
    for data in ((X, Y), (X, soft), batches, iter(batches), padded):
        found = collected(data)
        assert found.digest == sort(X, Y, 3).digest
        np.testing.assert_array_equal(found.labels, np.eye(3)[found.classes])
    with pytest.raises(
        ValueError, match=r"shape \(batch, 4, 4, 1\).*\(20, 16\)"
    ):
        collected((X.reshape(20, 16), Y))
    with pytest.raises(ValueError, match="outside the bounds"):
        collected((2 * X, Y))
    with pytest.raises(ValueError, match="20 images and 3 labels"):
        collected((X, Y[:3]))

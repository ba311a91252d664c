"""The instance-wise matrix against a loop over all pairs of samples."""

import tracemalloc

import keras
import numpy as np
import pytest

from keras_wake import attribution
from keras_wake.attacks import PGD

CLASSES = 4
ATTACK = PGD(epsilon=0.2, steps=4, random_start=False)


def brute_force(vectors, labels, num_classes):
    """Section D.4 word by word, in float64; NaN for a class of no samples."""
    vectors = np.asarray(vectors, "float64")
    matrix = np.full((num_classes, num_classes), np.nan)
    for i in set(labels.tolist()):
        for j in set(labels.tolist()):
            largest = [
                max(
                    x @ other / np.sqrt((x @ x) * (other @ other))
                    for other in vectors[labels == j]
                )
                for x in vectors[labels == i]
            ]
            matrix[i, j] = sum(largest) / len(largest)
    return matrix


@pytest.fixture
def samples():
    """57 vectors of four classes in no order, of unequal number and length."""
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, 57, p=[0.4, 0.3, 0.2, 0.1])
    vectors = rng.normal(size=(57, 6)) + rng.normal(size=(CLASSES, 6))[labels]
    return vectors * rng.uniform(0.01, 100, (57, 1)), labels


# One sample at a time, blocks that end within a class, one block.
@pytest.mark.parametrize("block_size", [1, 7, 57, 1000])
def test_equals_a_loop_over_all_pairs(samples, block_size):
    vectors, labels = samples
    expected = brute_force(vectors, labels, CLASSES)
    found = attribution.instance_correlation(
        vectors, labels, CLASSES, block_size
    )
    # Both in float64; only the order of the sums differs.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(np.diagonal(found), 1)
    assert np.max(np.abs(found - found.T)) > 0.01
    assert found.dtype == "float64"


def test_takes_float32_lists_and_files(samples, tmp_path):
    vectors, labels = samples
    small = vectors.astype("float32")
    before = small.copy()
    expected = brute_force(small, labels, CLASSES)
    small.tofile(tmp_path / "vectors")
    on_disk = np.memmap(tmp_path / "vectors", "float32", "r", shape=(57, 6))
    for form in (small, on_disk, small.tolist()):
        found = attribution.instance_correlation(form, labels, block_size=10)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(small, before)


def test_a_class_without_samples_is_nan_with_a_warning(samples):
    vectors, labels = samples
    labels = np.where(labels == 2, 5, labels)
    expected = brute_force(vectors, labels, 7)
    with pytest.warns(UserWarning, match=r"3 of 7 classes.*\[2, 4, 6\]\."):
        found = attribution.instance_correlation(vectors, labels, 7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert np.isnan(found[2]).all() and np.isnan(found[:, 2]).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("block_size", [5, 100])
def test_samples_without_a_direction_are_left_out(samples, value, block_size):
    vectors, labels = samples
    vectors[[3, 20]] = value
    kept = np.delete(np.arange(57), [3, 20])
    expected = brute_force(vectors[kept], labels[kept], CLASSES)
    with pytest.warns(UserWarning, match="^2 samples have a zero attrib"):
        found = attribution.instance_correlation(
            vectors, labels, block_size=block_size
        )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_a_class_of_which_none_is_left_is_nan(samples):
    vectors, labels = samples
    vectors[labels == 1] = 0
    with (
        pytest.warns(UserWarning, match="1 of 4 classes"),
        pytest.warns(UserWarning, match="samples have a zero"),
    ):
        found = attribution.instance_correlation(vectors, labels)
    one = np.arange(4) == 1
    np.testing.assert_array_equal(np.isnan(found), one | one[:, None])


@pytest.mark.parametrize(
    "count, n, k, b",
    [(3000, 64, 10, 128), (3000, 16, 100, 64), (1500, 256, 3, 500)],
)
def test_memory_keeps_within_its_bound(count, n, k, b):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, n))
    labels = rng.integers(0, k, count)
    tracemalloc.start()
    attribution.instance_correlation(vectors, labels, k, block_size=b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The formula of the docstring.
    allowed = 8 * (b**2 + 4 * b * n + 4 * b * k + 8 * count + 2 * k**2)
    # 64 kB for what is no array.
    assert peak < allowed + 2**16
    # And the bound says something: all similarities would not keep to it.
    assert allowed < 8 * count**2 / 2


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"vectors": np.ones(4)}, ValueError, r"features\).*shape \(4,\)"),
        ({"vectors": np.ones((0, 3))}, ValueError, r"shape \(0, 3\)"),
        ({"labels": [0, 1]}, ValueError, r"each of the 4 samples.*\(2,\)"),
        ({"labels": np.eye(4)}, ValueError, r"\(4, 4\).*argmax"),
        ({"labels": np.ones(4)}, TypeError, "dtype float64.*astype"),
        ({"labels": [0, 1, 2, -1]}, ValueError, "between 0 and 2.*from -1"),
        ({"num_classes": 2}, ValueError, "num_classes=2.*from 0 to 2"),
        ({"num_classes": 2.5}, TypeError, "`num_classes` must be an int"),
        ({"block_size": 0}, ValueError, "`block_size` must be at least 1"),
    ],
)
def test_refuses_bad_input(change, error, message):
    given = {"vectors": np.ones((4, 3)), "labels": [0, 1, 2, 2]}
    with pytest.raises(error, match=message):
        attribution.instance_correlation(**given | change)


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    x = rng.random((23, 5, 5, 2)).astype("float32")
    return x, rng.permutation(np.arange(23, dtype="int32") % CLASSES)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("attack", [None, ATTACK])
def test_of_a_network_equals_numpy(network, data, attack, numpy_vectors):
    x, y = data
    seen = x
    if attack is not None:
        seen = keras.ops.convert_to_numpy(attack(network, x, y))
    expected = numpy_vectors(seen, y)
    vectors, labels = attribution.instance_vectors(
        network, data, attack, batch_size=5
    )
    # Float32 features against float64, here and below.
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, y)
    assert vectors.dtype == "float32" and labels.dtype == "int64"
    matrix = attribution.correlation_matrix(
        network, data, attack, batch_size=5, mode="instance", block_size=4
    )
    expected = brute_force(expected, y, CLASSES)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    assert 0 < attribution.cas(matrix) <= CLASSES * (CLASSES - 1)


def test_a_class_that_the_data_lack_has_its_row(network, data):
    x, y = (array[data[1] < 3] for array in data)
    with pytest.warns(UserWarning, match="1 of 4 classes"):
        matrix = attribution.correlation_matrix(
            network, (x, y), mode="instance"
        )
    last = np.arange(4) == 3
    np.testing.assert_array_equal(np.isnan(matrix), last | last[:, None])

"""Attribution vectors, correlation matrix and CAS against NumPy."""

import concurrent.futures
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_wake import attribution
from keras_wake.attacks import PGD

CLASSES = 4
ATTACK = PGD(epsilon=0.2, steps=4, random_start=False)


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    x = rng.random((13, 5, 5, 2)).astype("float32")
    # Of unequal number, so that a mean is not a sum.
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3], "int32")
    return x, y[rng.permutation(13)]


@pytest.fixture
def class_vectors(numpy_vectors):
    """Algorithm 1, sample by sample."""

    def compute(x, y):
        samples = numpy_vectors(x, y)
        return np.array([samples[y == k].mean(axis=0) for k in range(CLASSES)])

    return compute


def _cosines(vectors):
    return np.array(
        [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in vectors] for a in vectors]
    )


def assert_close(found, expected):
    # Float32 features and sums against float64.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("attack", [None, ATTACK])
@pytest.mark.parametrize("batch_size", [1, 5, 128])
def test_equals_numpy(network, data, attack, batch_size, class_vectors):
    x, y = data
    x_adv = x if attack is None else np.asarray(attack(network, x, y))
    expected = class_vectors(x_adv, y)
    cosines = _cosines(expected)
    if attack is not None:
        # Otherwise an attack that is not passed on would go unseen.
        clean = _cosines(class_vectors(x, y))
        assert np.max(np.abs(clean - cosines)) > 0.01
    given = {"attack": attack, "batch_size": batch_size}
    found = attribution.attribution_vectors(network, data, **given)
    assert_close(found, expected)
    matrix = attribution.correlation_matrix(network, data, **given)
    np.testing.assert_allclose(matrix, cosines, atol=1e-5)
    assert matrix.dtype == "float64" and matrix.shape == (CLASSES, CLASSES)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diagonal(matrix), 1)
    score = attribution.cas(matrix)
    others = cosines[~np.eye(CLASSES, dtype=bool)]
    assert score == pytest.approx(others[others > 0].sum(), abs=1e-5)
    assert 0 < score < CLASSES * (CLASSES - 1)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y[:, None]),
        lambda x, y: (x, 0.6 * np.eye(CLASSES)[y] + 0.1),
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(5),
        lambda x, y: ((x[i : i + 5], y[i : i + 5]) for i in (0, 5, 10)),
        lambda x, y: (x.tolist(), np.eye(CLASSES)[y].tolist()),
        lambda x, y: [[list(x[:6]), y[:6].tolist()], (x[6:], y[6:])],
    ],
    ids=["column", "soft", "tf.data", "generator", "lists", "batches of lists"],
)
def test_takes_data_of_every_kind(network, data, form):
    expected = attribution.correlation_matrix(network, data)
    found = attribution.correlation_matrix(network, form(*data))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_the_seed_decides_the_random_starts(network, data):
    attack = PGD(epsilon=0.3, steps=1, step_size=0.01)

    def run(seed):
        return attribution.correlation_matrix(
            network, data, attack, batch_size=5, seed=seed
        )

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_networks_that_share_a_head_are_kept_apart(
    network, data, class_vectors
):
    x, y = data
    attribution.correlation_matrix(network, data)
    halved = keras.Sequential(
        [keras.Input((5, 5, 2)), keras.layers.Rescaling(0.5), network]
    )
    assert attribution.find_head(halved) is attribution.find_head(network)
    found = attribution.attribution_vectors(halved, data)
    assert_close(found, class_vectors(x * np.float32(0.5), y))
    # Nor does the one that is gone leave the shared head without a network.
    del halved
    gc.collect()
    found = attribution.attribution_vectors(network, data)
    assert_close(found, class_vectors(x, y))


def test_runs_on_the_weights_of_now(network, data, class_vectors):
    attribution.attribution_vectors(network, data)
    rng = np.random.default_rng(5)
    network.set_weights([rng.normal(size=w.shape) for w in network.weights])
    found = attribution.attribution_vectors(network, data)
    assert_close(found, class_vectors(*data))


def test_does_not_keep_a_classifier_alive(data):
    head = keras.layers.Dense(CLASSES)
    model = keras.Sequential(
        [keras.Input((5, 5, 2)), keras.layers.Flatten(), head]
    )
    attribution.attribution_vectors(model, data)
    reference = weakref.ref(model)
    assert reference() is not None
    del model, head
    gc.collect()
    assert reference() is None


def test_does_not_depend_on_the_order_or_scale_of_features():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 8))
    expected = _cosines(vectors)
    shuffled = vectors[:, rng.permutation(8)]
    scaled = vectors * np.array([1e-6, 0.5, 1, 3, 1e6])[:, None]
    for given in (vectors, shuffled, scaled):
        matrix = attribution.cosine_matrix(given)
        np.testing.assert_allclose(matrix, expected, atol=1e-14)
    # A negative scale turns a class round: the invariance ends there.
    turned = attribution.cosine_matrix(vectors * [[-1], [1], [1], [1], [1]])
    np.testing.assert_allclose(turned[0, 1:], -expected[0, 1:], atol=1e-14)


def test_cosines_stay_within_one():
    # Rounding of equal rows gives 1 + 2e-16 without a limit.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1, 7)) * rng.uniform(0.1, 10, (50, 1))
    matrix = attribution.cosine_matrix(rows)
    assert matrix.max() == 1
    np.testing.assert_allclose(matrix, 1, atol=1e-14)


def test_a_class_without_samples_is_nan_with_a_warning(network, data):
    x, y = data
    without = x[y != 2], y[y != 2]
    with pytest.warns(UserWarning, match=r"1 of 4 classes.*Classes: \[2\]"):
        matrix = attribution.correlation_matrix(network, without)
    vectors = attribution.attribution_vectors(network, without)
    is_missing = np.arange(4) == 2
    np.testing.assert_array_equal(np.isnan(vectors).all(1), is_missing)
    whole = attribution.correlation_matrix(network, data)
    whole[is_missing | is_missing[:, None]] = np.nan
    np.testing.assert_allclose(matrix, whole, atol=1e-5)


@pytest.mark.parametrize("row", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_nan_with_a_warning(row):
    vectors = np.array([[1.0, 0.0], [row, row], [1.0, 1.0], [0.0, row]])
    with pytest.warns(UserWarning, match=r"2 of 4 classes.*: \[1, 3\]\."):
        matrix = attribution.cosine_matrix(vectors)
    half = 1 / np.sqrt(2)
    expected = np.full((4, 4), np.nan)
    expected[np.ix_([0, 2], [0, 2])] = [[1, half], [half, 1]]
    np.testing.assert_allclose(matrix, expected, atol=1e-15)


def test_cas_counts_positive_entries_off_the_diagonal():
    matrix = np.array([[1, 0.5, -0.25], [0.5, 1, 0.125], [-0.25, 0.125, 1]])
    assert attribution.cas(matrix) == 1.25
    # The instance-wise matrix is not symmetric: both halves count.
    matrix[0, 1] = 0.75
    assert attribution.cas(matrix.tolist()) == 1.5
    assert attribution.cas(np.ones((10, 10))) == 90
    assert attribution.cas(np.eye(10)) == 0
    assert type(attribution.cas(matrix)) is float


def test_cas_leaves_out_nan_with_a_warning():
    matrix = np.array([[1, np.nan, 0.5], [np.nan] * 3, [0.5, np.nan, 1]])
    with pytest.warns(UserWarning, match="4 of 6 entries of the matrix are"):
        assert attribution.cas(matrix) == 1.0
    with pytest.warns(UserWarning, match="6 of 6 entries"):
        assert np.isnan(attribution.cas(np.full((3, 3), np.nan)))


def test_refuses_arrays_of_the_wrong_shape_or_kind():
    with pytest.raises(ValueError, match=r"\(classes, features\).*\(3,\)"):
        attribution.cosine_matrix(np.ones(3))
    with pytest.raises(
        ValueError, match="`vectors` must be an array of numbers"
    ):
        attribution.cosine_matrix("vectors")
    with pytest.raises(
        ValueError, match="`matrix` must be an array of numbers"
    ):
        attribution.cas("matrix")
    for shape in ((2, 3), (3,), (2, 2, 2)):
        with pytest.raises(ValueError, match="`matrix` must be square"):
            attribution.cas(np.ones(shape))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: [], ValueError, "data set is empty"),
        (lambda x, y: (x, y[:5]), ValueError, "13 images and 5 labels"),
        (lambda x, y: x, TypeError, "pair of arrays.*yields a ndarray"),
        (lambda x, y: (x * 255, y), ValueError, r"13 image.*batch 1.*\[0, 1\]"),
        (lambda x, y: (x.astype("uint8"), y), TypeError, "dtype uint8"),
        (
            lambda x, y: (x[..., 0], y),
            ValueError,
            r"\(batch, 5, 5, 2\).*5, 5\)",
        ),
        (lambda x, y: (x * np.nan, y), ValueError, "13 image.*NaN"),
        (lambda x, y: (x, y.astype("float64")), TypeError, r"dtype float\d\d"),
        (
            lambda x, y: ([x[0], x[1][1:]], [0, 1]),
            ValueError,
            "all of one shape",
        ),
    ],
)
def test_refuses_bad_data(network, data, change, error, message):
    with pytest.raises(error, match=message):
        attribution.correlation_matrix(network, change(*data), PGD(steps=0))


def test_clean_images_have_no_bounds(network, data, class_vectors):
    # Without an attack there is no threat model that could name them.
    wide = 3 * data[0] - 1, data[1]
    matrix = attribution.correlation_matrix(network, wide)
    np.testing.assert_allclose(
        matrix, _cosines(class_vectors(*wide)), atol=1e-5
    )


def test_grey_levels_are_refused_unless_they_are_meant(
    network, data, class_vectors
):
    grey = np.round(255 * data[0]), data[1]
    for analyse in (
        attribution.correlation_matrix,
        attribution.attribution_vectors,
        attribution.instance_vectors,
        attribution.class_report,
    ):
        with pytest.raises(ValueError, match=r"0 to 255\. Divide them by"):
            analyse(network, grey)
    found = attribution.attribution_vectors(network, grey, bounds=(0, 255))
    np.testing.assert_allclose(
        found, class_vectors(*grey), rtol=1e-4, atol=1e-2
    )
    with pytest.raises(ValueError, match=r"image.*outside"):
        attribution.class_report(network, grey, bounds=(0, 1))
    with pytest.raises(ValueError, match="those of the attack"):
        attribution.correlation_matrix(network, data, PGD(), bounds=(0, 2))
    with pytest.raises((TypeError, ValueError), match="`bounds` must"):
        attribution.correlation_matrix(network, data, bounds=5)


@pytest.mark.parametrize("labels", [0, [0], np.zeros(5, "int32")])
def test_a_missing_batch_axis_is_no_fault_of_the_labels(network, data, labels):
    image = data[0][0]
    message = r"\(batch, 5, 5, 2\).*\(5, 5, 2\). Give a single image"
    with pytest.raises(ValueError, match=message):
        PGD()(network, image, labels)
    if np.ndim(labels):
        for pair in ((image, labels), (image.tolist(), labels)):
            with pytest.raises(ValueError, match=message):
                attribution.correlation_matrix(network, pair, PGD())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attack": "pgd"}, TypeError, "`attack` must be an attack.*'pgd'"),
        ({"attack": PGD}, TypeError, "`attack` must be an attack.*class"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"block_size": 0}, ValueError, "`block_size` must be at least 1"),
        ({"mode": "sample"}, ValueError, r"'class', 'instance'.*mode='sample'"),
        ({"seed": 0.5}, TypeError, "`seed` must be an integer"),
        ({"head": "conv"}, ValueError, r"ends in Conv2D 'conv'.*head='layer"),
        ({"head": "neck"}, ValueError, "head='neck', which fits 0"),
    ],
)
def test_refuses_bad_arguments(network, data, arguments, error, message):
    with pytest.raises(error, match=message):
        attribution.correlation_matrix(network, data, **arguments)


def test_refuses_what_is_no_classifier(network, data):
    with pytest.raises(TypeError, match=r"must be a `keras\.Model`"):
        attribution.correlation_matrix(network.call, data)
    softmax = keras.Sequential([network, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="returns probabilities"):
        attribution.correlation_matrix(softmax, data)


def test_threads_that_analyse_one_network_find_what_one_alone_finds(
    network, data
):
    def matrix(_):
        return attribution.correlation_matrix(network, data, batch_size=5)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        together = list(threads.map(matrix, range(8)))
    # The same operations; TensorFlow may share them out otherwise.
    np.testing.assert_allclose(together, [matrix(0)] * 8, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
# The kernel is rounded, by 1/14 of its largest number at most.
@pytest.mark.parametrize(("mode", "atol"), [("int8", 0.005), ("int4", 0.1)])
def test_a_quantised_network_has_a_matrix(network, data, mode, atol):
    exact = attribution.correlation_matrix(network, data)
    network.get_layer("head").quantize(mode)
    attack = PGD(epsilon=1e-6, steps=1)
    found = attribution.correlation_matrix(network, data, attack)
    np.testing.assert_allclose(found, exact, rtol=0, atol=atol)

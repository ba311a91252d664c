"""Checks of classifiers, images, labels and data sets, and their messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_wake.data import batching
from keras_wake.data import fault_counts
from keras_wake.data import input_checks


def _dense(units=3, activation=None, size=4):
    return keras.Sequential(
        [
            keras.Input((size,), name="pixels"),
            layers.Dense(units, activation=activation),
        ],
        name="mine",
    )


class Subclassed(keras.Model):
    """Linear, and not built before its first call."""

    def __init__(self):
        super().__init__(name="mine")
        self.head = layers.Dense(3)

    def call(self, x, training=False):
        return self.head(x)


def _with_preprocessor(preprocessor=np.tanh):
    """As a task of KerasHub, whose `predict` and `fit` preprocess."""
    model = _dense(3)
    model.preprocessor = preprocessor
    return model


class Preprocessing(keras.Model):
    """A call preprocesses: there is nothing to refuse."""

    def __init__(self):
        super().__init__()
        self.preprocessor = layers.Rescaling(2.0)
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(self.preprocessor(x))


# Classifiers --------------------------------------------------------------


def test_every_kind_of_model_is_accepted():
    inputs = keras.Input((None, None, 3))
    pooled = layers.GlobalMaxPooling2D()(layers.Conv2D(5, 3)(inputs))
    subclassed, preprocessing = Subclassed(), Preprocessing()
    for model in (subclassed, preprocessing):
        model(np.zeros((1, 4), "float32"))
    for model, classes in (
        (_dense(3), 3),
        (keras.Model(inputs, layers.Dense(7)(pooled)), 7),
        (keras.Model([inputs], layers.Dense(7)(pooled)), 7),
        (subclassed, 3),
        (_with_preprocessor(None), 3),
        (preprocessing, 3),
        (keras.Sequential([_dense(4, "relu"), layers.Dense(3)]), 3),
        (keras.Sequential([_dense(3), layers.Activation("linear")]), 3),
        (_closed(keras.ops.log_softmax), 3),
    ):
        assert input_checks.check_classifier(model) == classes


def test_a_classifier_that_is_all_zeros_returns_logits():
    model = _dense(3)
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    assert input_checks.check_classifier(model) == 3


def test_checking_leaves_the_classifier_as_it_was():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    before = [np.copy(np.asarray(v)) for v in model.variables]
    input_checks.check_classifier(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def _two_inputs(kind):
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    outputs = layers.Dense(3)(layers.Add()([first, second]))
    inputs = {"a": first, "b": second}
    inputs = inputs if kind is dict else [first, second]
    return keras.Model(inputs, outputs, name="mine")


def _two_outputs():
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3)(inputs), layers.Dense(3)(inputs)]
    return keras.Model(inputs, outputs, name="mine")


def _fixed_batch():
    images = keras.Input((4, 4, 1))
    flat = keras.ops.reshape(images, (8, 16))
    return keras.Model(images, layers.Dense(3)(flat))


def _closed(*operations):
    inputs = outputs = keras.Input((4,))
    for operation in (layers.Dense(3), *operations):
        outputs = operation(outputs)
    return keras.Model(inputs, outputs)


def _cast(x):
    return keras.ops.cast(x, "float32")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: "resnet",
            TypeError,
            r"`classifier` must be a `keras\.Model` that maps images to "
            r"logits\. Received: 'resnet' \(of type str\)",
        ),
        (lambda: layers.Dense(3), TypeError, "of type Dense"),
        (lambda: None, TypeError, "of type NoneType"),
        (lambda: Subclassed, TypeError, "of type type"),
        (
            lambda: keras.Sequential([layers.Dense(3)], name="mine"),
            ValueError,
            "'mine' is not built yet. Call it on a batch of images, or `build`",
        ),
        (Subclassed, ValueError, "'mine' is not built yet"),
        (
            lambda: _two_inputs(list),
            ValueError,
            r"'mine' must take one batch of images.*\(None, 4\), \(None, 4\)",
        ),
        (
            lambda: _two_inputs(dict),
            ValueError,
            "'mine' must take one batch of images",
        ),
        (
            _two_outputs,
            ValueError,
            r"'mine' must return logits of shape \(batch, K\).*of shape list",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4, 4, 1)), layers.Conv2D(3, 1)], name="mine"
            ),
            ValueError,
            r"logits of shape \(batch, K\).*an output of shape \(4, 4, 4, 3\)",
        ),
        (
            lambda: _dense(1),
            ValueError,
            r"K ≥ 2 classes.*of shape \(4, 1\)\. For two classes, end it in "
            r"two logits, `Dense\(2\)` without a sigmoid",
        ),
        (lambda: _dense(1, "sigmoid"), ValueError, "two logits"),
        (
            lambda: _dense(3, "softmax"),
            ValueError,
            "'mine' returns probabilities, not logits.*sum to 1. Remove the "
            r"softmax \(`activation=None`",
        ),
        (
            lambda: keras.Sequential([_dense(), layers.Softmax()]),
            ValueError,
            "returns probabilities",
        ),
        (
            lambda: keras.Sequential([_dense(), layers.Activation("sigmoid")]),
            ValueError,
            "returns the sigmoid of its logits",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,)), _dense(3, "sigmoid")]),
            ValueError,
            "returns the sigmoid of its logits",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4,)), _dense(3, "relu"), layers.Dropout(0.1)]
            ),
            ValueError,
            "returns the relu of its logits",
        ),
        (
            lambda: keras.Sequential([_dense(3), layers.ReLU()]),
            ValueError,
            "returns the relu of its logits",
        ),
        (
            lambda: _closed(keras.ops.sigmoid),
            ValueError,
            "returns the sigmoid of its logits",
        ),
        (
            lambda: _closed(keras.ops.relu, layers.Flatten(), _cast),
            ValueError,
            "returns the relu of its logits",
        ),
        (
            lambda: _closed(keras.activations.relu6, layers.Reshape((3,))),
            ValueError,
            "returns the relu6 of its logits",
        ),
        (
            lambda: keras.Sequential(
                [
                    _dense(3, "sigmoid"),
                    layers.Activation("linear"),
                    keras.Sequential([layers.Identity(), layers.Dropout(0.1)]),
                ]
            ),
            ValueError,
            "returns the sigmoid of its logits",
        ),
        (
            lambda: keras.Sequential(
                [keras.Sequential([_dense(3), layers.ReLU()]), layers.Flatten()]
            ),
            ValueError,
            "returns the relu of its logits",
        ),
        (_with_preprocessor, ValueError, r"'mine' has a preprocessor.*None`"),
        (
            lambda: _with_preprocessor(layers.Rescaling(1 / 255)),
            ValueError,
            "'mine' has a preprocessor",
        ),
        (
            _fixed_batch,
            ValueError,
            r"could not be called on 4 images of shape \(4, 4, 1\).*any size",
        ),
    ],
)
def test_refuses_what_is_no_classifier(make, error, message):
    with pytest.raises(error, match=message):
        input_checks.check_classifier(make())


def test_refuses_an_input_of_integers():
    images = keras.Input((4, 4, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    classifier = keras.Model(images, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"no gradient.*input of dtype uint8"):
        input_checks.check_classifier(classifier)


def test_rank_is_that_of_the_classifier():
    model = keras.Sequential(
        [
            keras.Input((None, 5, 1)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ],
        name="mine",
    )
    input_checks.image_shape(model).check(np.zeros((2, 4, 5, 1)))
    with pytest.raises(
        ValueError,
        match=r"shape \(batch, None, 5, 1\), as the classifier 'mine' takes "
        r"them\. Received: shape \(2, 4, 5\)",
    ):
        input_checks.image_shape(model).check(np.zeros((2, 4, 5)))


# Images -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_images_of_any_float_become_float32(dtype):
    x = keras.ops.cast([[0.5, 0.25]], dtype)
    images = input_checks.as_float_images(x)
    assert keras.backend.standardize_dtype(images.dtype) == "float32"
    np.testing.assert_array_equal(images, [[0.5, 0.25]])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_refuses_images_that_are_not_floats(dtype):
    with pytest.raises(
        TypeError,
        match="Images must be floating-point numbers within the bounds of the "
        rf"threat model, \[0, 1\] by default\. Received: dtype {dtype}\. "
        r'Convert them: `x\.astype\("float32"\) / 255`',
    ):
        input_checks.as_float_images(np.zeros((2, 3), dtype))


def test_refuses_images_that_are_no_batch():
    for x in ([1.0], {"image": 1}, None):
        with pytest.raises(TypeError, match=f"Received: {type(x).__name__}"):
            input_checks.as_float_images(x)
    for shape in ((), (5,)):
        with pytest.raises(ValueError, match=r"shape \(batch, \.\.\.\)"):
            input_checks.as_float_images(np.zeros(shape))


# Labels -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_class_numbers_become_one_hot(dtype, shape):
    y = np.array([2, 0, 1], dtype).reshape(shape)
    labels = input_checks.one_hot_labels(y, 3)
    np.testing.assert_array_equal(labels, np.eye(3)[[2, 0, 1]])
    assert keras.backend.standardize_dtype(labels.dtype) == "float32"


def test_one_hot_and_soft_labels_stay():
    soft = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_array_equal(input_checks.one_hot_labels(soft, 2), soft)
    one_hot = np.eye(2, dtype="int64")
    np.testing.assert_array_equal(
        input_checks.one_hot_labels(one_hot, 2), one_hot
    )


def test_a_label_out_of_range_is_a_row_of_zeros():
    labels = input_checks.one_hot_labels(np.array([-1, 3, 2]), 3)
    np.testing.assert_array_equal(labels, [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, ValueError, r"Labels are missing: the data must yield \(x, y\)"),
        (
            np.zeros(5),
            TypeError,
            r"Labels of shape \(5,\) are class numbers and must be integers\. "
            r'Received: dtype float64\. Convert them: `y\.astype\("int32"\)`',
        ),
        (np.zeros((5, 1), "float32"), TypeError, "dtype float32"),
        (np.zeros(5, bool), TypeError, "dtype bool"),
        (
            np.zeros((5, 4), int),
            ValueError,
            r"class numbers of shape \(batch,\) or one-hot or soft labels of "
            r"shape \(batch, 3\)\. Received: shape \(5, 4\)",
        ),
        (np.zeros((5, 3, 1), int), ValueError, r"Received: shape \(5, 3, 1\)"),
        (np.int32(1), ValueError, r"Received: shape \(\)"),
    ],
)
def test_refuses_labels_of_no_known_form(y, error, message):
    with pytest.raises(error, match=message):
        input_checks.one_hot_labels(y, 3)


# Values -------------------------------------------------------------------


def _faults_of(x, labels=None, bounds=(0.0, 1.0)):
    x = np.asarray(x, "float32")
    if labels is None:
        labels = np.tile([1.0, 0.0], (len(x), 1))
    labels = np.asarray(labels, "float32")
    return np.asarray(fault_counts.count_faults(x, labels, bounds)).tolist()


def test_counts_each_faulty_sample_once():
    nan, inf = np.nan, np.inf
    x = [[0, 1], [nan, 2], [inf, 0], [-0.5, 0.5], [0.5, 1.5], [-1, 2]]
    assert _faults_of(x) == [2, 3, 0]
    assert _faults_of(x, bounds=(-1, 2)) == [2, 0, 0]


def test_rounding_is_no_fault():
    assert (
        _faults_of([[-3e-8, 1 + 1e-7], [-9e-7, 1.0], [0, 1 + 9e-7]]) == [0] * 3
    )
    assert _faults_of([[-2e-6, 0], [0, 1 + 2e-6]]) == [0, 2, 0]


def test_counts_labels_that_name_no_class():
    good = [[1, 0], [0.25, 0.75], [0.5004, 0.5]]
    bad = [[0, 0], [1, 1], [-0.5, 1.5], [np.nan, 1], [0.9, 0.0]]
    x = np.full((8, 2), 0.5)
    assert _faults_of(x, good + bad) == [0, 0, 5]


def test_counts_images_of_any_rank():
    x = np.full((3, 2, 2, 2), 0.5)
    x[1, 0, 1, 1] = np.nan
    x[2, 1, 1, 0] = 7
    assert _faults_of(x) == [1, 1, 0]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([2, 3, 1], r"2 image\(s\) of batch 4 contain NaN or infinity. Remove"),
        (
            [0, 3, 1],
            r"3 image\(s\) of batch 4 lie outside the bounds \[-1, 0\.5\] of "
            "the threat model. Scale the images.*divide by 255.*`bounds=`",
        ),
        (
            [0, 0, 1],
            r"1 label\(s\) of batch 4 name no class. Class numbers must be "
            "between 0 and 9; one-hot and soft labels must be at least 0",
        ),
    ],
)
def test_faults_are_named(faults, message):
    with pytest.raises(ValueError, match=message):
        fault_counts.raise_for_faults(faults, (-1, 0.5), 10, "of batch 4")


def test_no_fault_is_no_error():
    none = np.zeros(3)
    assert fault_counts.raise_for_faults(none, (0, 1), 10, "of batch 1") is None


# Data sets ----------------------------------------------------------------


@pytest.fixture
def arrays():
    x = np.random.default_rng(0).random((7, 4)).astype("float32")
    return x, np.arange(7) % 3


class Batches(keras.utils.PyDataset):
    """Three batches, and an error beyond the last as of a real data set."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= 3:
            raise FileNotFoundError(index)
        part = slice(3 * index, 3 * index + 3)
        return self.x[part], self.y[part]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [tf.constant(x), tf.constant(y)],
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(3),
        lambda x, y: [[x[i : i + 3], y[i : i + 3]] for i in (0, 3, 6)],
        lambda x, y: ((x[i : i + 3], y[i : i + 3], None) for i in (0, 3, 6)),
        Batches,
    ],
    ids=["arrays", "tensors", "tf.data", "list", "generator", "PyDataset"],
)
def test_batches_of_every_kind_of_data(arrays, form):
    found = list(batching.batches(form(*arrays), batch_size=3))
    assert [len(x) for x, _ in found] == [3, 3, 1]
    for part, whole in zip(zip(*found, strict=True), arrays, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole)


def test_a_data_set_without_end_is_refused(arrays):
    endless = tf.data.Dataset.from_tensor_slices(arrays).batch(3).repeat()
    with pytest.raises(ValueError, match=r"never ends.*data.take\(n\)"):
        next(batching.checked_batches(endless, 3, (0, 1)))


def test_weights_that_are_no_numbers_are_refused(arrays):
    x, y = arrays
    with pytest.raises(ValueError, match="weights of a batch are NaN"):
        list(batching.batches([(x, y, np.full(len(x), np.nan))]))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_labels_that_do_not_fit_are_no_classes(arrays, dtype):
    x, y = arrays
    with pytest.raises(ValueError, match="label"):
        batching.checked_batch(x, y.astype(dtype) + 2**32, 3, (0, 1), "here")


def test_checked_batches_are_float32_and_one_hot(arrays):
    x, y = arrays
    ((images, labels),) = batching.checked_batches(
        (x.astype("float64"), y), 3, (0, 1)
    )
    assert keras.backend.standardize_dtype(images.dtype) == "float32"
    np.testing.assert_array_equal(images, x)
    np.testing.assert_array_equal(labels, np.eye(3)[y])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (x[:0], y[:0]),
            ValueError,
            "data set is empty.*no batch",
        ),
        (lambda x, y: [], ValueError, "The data set is empty"),
        (
            lambda x, y: (
                tf.data.Dataset.from_tensor_slices((x, y)).batch(3).take(0)
            ),
            ValueError,
            "The data set is empty",
        ),
        (
            lambda x, y: (x, y[:6]),
            ValueError,
            "must have the same length. Received: 7 images and 6 labels",
        ),
        (lambda x, y: [(x[:2], y)], ValueError, "2 images and 7 labels"),
        (lambda x, y: [(x[:0], y[:0])], ValueError, "size of batch 1 is 0"),
        (
            lambda x, y: 7,
            TypeError,
            r"`data` must be a pair of arrays \(x, y\) or yield batches "
            r"\(images, labels\)\. Received: int",
        ),
        (
            lambda x, y: x,
            TypeError,
            "Received: a ndarray that yields a ndarray",
        ),
        (lambda x, y: (x, 1), TypeError, "Labels must be one .*Received: int"),
        (lambda x, y: (x, None), ValueError, "Labels are missing"),
        (lambda x, y: [{"x": x}], TypeError, "a list that yields a dict"),
        (lambda x, y: [(x,)], TypeError, "a list that yields a tuple"),
        (
            lambda x, y: iter([1, 2]),
            TypeError,
            "a list_iterator that yields a int",
        ),
        (lambda x, y: [(x, None)], ValueError, "Labels are missing"),
        (lambda x, y: [(None, y)], TypeError, "Images must be one tensor"),
        (lambda x, y: [(x, y), (x, y + 1)], ValueError, "label.*of batch 2"),
        (lambda x, y: [(x, y), (x + 1, y)], ValueError, "image.*of batch 2"),
    ],
)
def test_refuses_bad_data(arrays, change, error, message):
    with pytest.raises(error, match=message):
        list(batching.checked_batches(change(*arrays), 3, (0.0, 1.0)))

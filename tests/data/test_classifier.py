"""The check of classifiers, and its messages."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import image_shape


def _sequential(*parts):
    return keras.Sequential(list(parts), name="mine")


def _dense(units=3, activation=None):
    return _sequential(keras.Input((4,)), layers.Dense(units, activation))


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
        (_sequential(_dense(4, "relu"), layers.Dense(3)), 3),
        (_sequential(_dense(3), layers.Activation("linear")), 3),
        (_closed(keras.ops.log_softmax), 3),
    ):
        assert check_classifier(model) == classes


def test_a_classifier_that_is_all_zeros_returns_logits():
    model = _dense(3)
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    assert check_classifier(model) == 3


def test_checking_leaves_the_classifier_as_it_was():
    model = _sequential(
        keras.Input((4,)),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(3),
    )
    before = [np.copy(np.asarray(v)) for v in model.variables]
    check_classifier(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def _two_inputs(kind):
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    outputs = layers.Dense(3)(layers.Add()(list(inputs.values())))
    inputs = inputs if kind is dict else list(inputs.values())
    return keras.Model(inputs, outputs, name="mine")


def _two_outputs():
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3)(inputs), layers.Dense(3)(inputs)]
    return keras.Model(inputs, outputs, name="mine")


def _fixed_batch():
    images = keras.Input((4, 4, 1))
    flat = keras.ops.reshape(images, (8, 16))
    return keras.Model(images, layers.Dense(3)(flat))


def _closed_by_a_shared_relu():
    # The same layer is also in the middle, where it does no harm.
    relu = layers.ReLU()
    images = keras.Input((4,))
    return keras.Model(images, relu(layers.Dense(3)(relu(images))))


def _closed(*operations):
    inputs = outputs = keras.Input((4,))
    for operation in (layers.Dense(3), *operations):
        outputs = operation(outputs)
    return keras.Model(inputs, outputs)


def _cast(x):
    return keras.ops.cast(x, "float32")


def test_refuses_what_is_no_model():
    for value, received in (
        ("resnet", r"'resnet' \(of type str\)"),
        (layers.Dense(3), ".*of type Dense"),
        (None, ".*of type NoneType"),
        (Subclassed, ".*of type type"),
    ):
        with pytest.raises(
            TypeError,
            match=r"`classifier` must be a `keras\.Model` that maps images to "
            rf"logits\. Received: {received}",
        ):
            check_classifier(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: _sequential(layers.Dense(3)),
            "'mine' is not built yet. Call it on a batch of images, or `build`",
        ),
        (Subclassed, "'mine' is not built yet"),
        (
            lambda: _two_inputs(list),
            r"'mine' must take one batch of images.*\(None, 4\), \(None, 4\)",
        ),
        (lambda: _two_inputs(dict), "'mine' must take one batch of images"),
        (
            _two_outputs,
            r"'mine' must return logits of shape \(batch, K\).*of shape list",
        ),
        (
            lambda: _sequential(keras.Input((4, 4, 1)), layers.Conv2D(3, 1)),
            r"logits of shape \(batch, K\).*an output of shape \(4, 4, 4, 3\)",
        ),
        (
            lambda: _dense(1),
            r"K ≥ 2 classes.*of shape \(4, 1\)\. For two classes, end it in "
            r"two logits, `Dense\(2\)` without a sigmoid",
        ),
        (lambda: _dense(1, "sigmoid"), "two logits"),
        (
            lambda: _dense(3, "softmax"),
            "'mine' returns probabilities, not logits.*sum to 1. Remove the "
            r"softmax \(`activation=None`",
        ),
        (
            lambda: _sequential(_dense(), layers.Softmax()),
            "returns probabilities",
        ),
        (_with_preprocessor, r"'mine' has a preprocessor.*None`"),
        (
            lambda: _with_preprocessor(layers.Rescaling(1 / 255)),
            "'mine' has a preprocessor",
        ),
        (
            _fixed_batch,
            r"could not be called on 4 images of shape \(4, 4, 1\).*any size",
        ),
    ],
)
def test_refuses_what_is_no_classifier(make, message):
    with pytest.raises(ValueError, match=message):
        check_classifier(make())


def test_refuses_an_activation_that_closes_the_logits():
    pixels = keras.Input((4,))
    kept = keras.Sequential([layers.Identity(), layers.Dropout(0.1)])
    linear = layers.Activation("linear")
    for name, model in (
        ("sigmoid", _sequential(_dense(), layers.Activation("sigmoid"))),
        ("sigmoid", _sequential(pixels, _dense(3, "sigmoid"))),
        ("sigmoid", _sequential(_dense(3, "sigmoid"), linear, kept)),
        ("sigmoid", _closed(keras.ops.sigmoid)),
        ("relu", _sequential(_dense(), layers.ReLU())),
        ("relu", _sequential(pixels, _dense(3, "relu"), layers.Dropout(0.1))),
        (
            "relu",
            _sequential(_sequential(_dense(), layers.ReLU()), layers.Flatten()),
        ),
        ("relu", _closed_by_a_shared_relu()),
        ("relu", _closed(keras.ops.relu, layers.Flatten(), _cast)),
        ("relu6", _closed(keras.activations.relu6, layers.Reshape((3,)))),
    ):
        message = f"returns the {name} of its logits"
        with pytest.raises(ValueError, match=message):
            check_classifier(model)


def test_refuses_an_input_of_integers():
    images = keras.Input((4, 4, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    classifier = keras.Model(images, layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"no gradient.*input of dtype uint8"):
        check_classifier(classifier)


def test_rank_is_that_of_the_classifier():
    model = _sequential(
        keras.Input((None, 5, 1)),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )
    image_shape(model).check(np.zeros((2, 4, 5, 1)))
    with pytest.raises(
        ValueError,
        match=r"shape \(batch, None, 5, 1\), as the classifier 'mine' takes "
        r"them\. Received: shape \(2, 4, 5\)",
    ):
        image_shape(model).check(np.zeros((2, 4, 5)))

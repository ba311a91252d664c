"""Finding the head: models in which it is found, named and refused."""

import concurrent.futures

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_wake.attribution import find_head
from keras_wake.attribution.head import counterpart
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def _functional(*after):
    """A residual connection before the head, two inputs to one layer."""
    head = layers.Dense(3, name="head")
    inputs = keras.Input((4,))
    outputs = layers.Add()([inputs, layers.Dense(4)(inputs)])
    for layer in (head, *after):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs), head


def _sequential(*after):
    head = layers.Dense(3, name="head")
    first = [keras.Input((4,)), layers.Dense(5, name="hidden")]
    return keras.Sequential([*first, head, *after]), head


def _nested_in_functional(*after):
    inner, head = _sequential(*after)
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(layers.Rescaling(2.0)(inputs))), head


def _nested_in_sequential(*after):
    inner, head = _functional(*after)
    outer = [keras.Input((4,)), layers.Rescaling(2.0), inner]
    return keras.Sequential([*outer, layers.Activation("linear")]), head


@pytest.mark.parametrize(
    "make",
    [_functional, _sequential, _nested_in_functional, _nested_in_sequential],
)
@pytest.mark.parametrize(
    "after",
    [
        lambda: [],
        lambda: [layers.Activation("linear")],
        lambda: [layers.Activation("tanh", dtype="float32")],
        lambda: [layers.Dropout(0.5), layers.Identity()],
        lambda: [layers.ReLU()],
        lambda: [layers.LeakyReLU()],
    ],
    ids=["plain", "linear", "tanh", "two", "relu", "leaky"],
)
def test_is_found(make, after):
    model, head = make(*after())
    assert find_head(model) is head
    assert find_head(model, num_classes=3) is head


def test_is_the_layer_that_makes_the_output_not_the_last_one_made():
    # `model.layers` ends in the layer of the other branch.
    inputs = keras.Input((4,))
    hidden = layers.Dense(5)(inputs)
    head = layers.Dense(3)
    logits = head(hidden)
    other = layers.Dense(2)(layers.Dense(2)(layers.Dense(2)(hidden)))
    model = keras.Model(inputs, [logits, other])
    assert find_head(keras.Model(inputs, model.outputs[0])) is head


class Subclassed(keras.Model):
    """A model that does not say how its layers are connected."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(3, name="head")
        self.hidden = layers.Dense(5, name="hidden")

    def call(self, x, training=False):
        return ops.tanh(self.head(ops.relu(self.hidden(x))))


@pytest.fixture
def subclassed():
    keras.utils.set_random_seed(0)
    model = Subclassed(name="mine")
    model(np.zeros((1, 4), "float32"))
    return model


def test_of_a_subclassed_model_is_named_or_given(subclassed):
    assert find_head(subclassed, "head") is subclassed.head
    assert find_head(subclassed, subclassed.head) is subclassed.head
    message = (
        r"'mine' has no Dense layer at its end that could be found: it "
        r"ends in Subclassed 'mine'\. Name the Dense layer.*head='layer name'"
    )
    with pytest.raises(ValueError, match=message):
        find_head(subclassed)


def test_is_named_inside_nested_models_and_wrappers():
    inner, head = _sequential()
    model = keras.Sequential([keras.Input((4,)), inner, layers.Rescaling(2.0)])
    with pytest.raises(ValueError, match="ends in Rescaling"):
        find_head(model)
    assert find_head(model, "head") is head
    dense = layers.Dense(3, name="dense")
    wrapped = keras.Sequential(
        [keras.Input((4,)), layers.SpectralNormalization(dense)]
    )
    with pytest.raises(ValueError, match="ends in SpectralNormalization"):
        find_head(wrapped)
    assert find_head(wrapped, "dense") is dense


def test_a_layer_that_two_models_share_has_one_name():
    class Shared(keras.Model):
        def __init__(self):
            super().__init__()
            self.whole, self.head = _sequential()

    model = Shared()
    assert find_head(model, "head") is model.head


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("neck", r"one layer of 'mine'.*fits 0 of.*\['head', 'hidden'\]"),
        (layers.Dense(3, name="other"), "one layer of 'mine'.*other"),
        (3, "one layer of 'mine'.*Received: head=3"),
    ],
)
def test_refuses_a_head_that_the_model_does_not_have(subclassed, head, message):
    with pytest.raises(ValueError, match=message):
        find_head(subclassed, head)


def test_refuses_a_head_with_another_number_of_units(subclassed):
    message = r"each of 3 classes.*'hidden' with 5 units\. Name"
    with pytest.raises(ValueError, match=message):
        find_head(subclassed, "hidden", num_classes=3)


def test_refuses_a_name_that_two_layers_have(subclassed):
    subclassed.hidden.name = "head"
    with pytest.raises(ValueError, match=r"layer of 'mine'.*fits 2"):
        find_head(subclassed, "head")


@pytest.mark.parametrize(
    "last",
    [
        layers.Conv2D(3, 4, name="last"),
        layers.Rescaling(1.0, name="last"),
        layers.EinsumDense("bhwc,co->bo", 3, name="last"),
    ],
)
def test_refuses_an_end_that_is_not_dense(last):
    model = keras.Sequential([keras.Input((4, 4, 2)), last])
    for head in (None, "last"):
        message = f"it ends in {type(last).__name__} 'last'"
        with pytest.raises(ValueError, match=message):
            find_head(model, head)


def in_numpy(*found):
    return map(ops.convert_to_numpy, found)


def test_features_are_what_goes_into_the_head(subclassed):
    first, bias1, second, bias2 = (
        weight.astype("float64")
        for layer in (subclassed.hidden, subclassed.head)
        for weight in layer.get_weights()
    )
    expected = np.maximum(X @ first + bias1, 0)
    logits, features = in_numpy(
        *logits_and_features(subclassed, subclassed.head, X)
    )
    # Float32 against float64.
    np.testing.assert_allclose(features, expected, atol=1e-6)
    expected = np.tanh(expected @ second + bias2)
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_recording_leaves_the_head_as_it_was(subclassed):
    before = vars(subclassed.head).keys() | set()
    logits_and_features(subclassed, subclassed.head, X)
    assert vars(subclassed.head).keys() == before
    with pytest.raises(ValueError):
        logits_and_features(subclassed, subclassed.head, np.ones((2, 9)))
    assert vars(subclassed.head).keys() == before


def test_refuses_a_head_that_is_called_twice_or_never(subclassed):
    class Twice(Subclassed):
        def call(self, x, training=False):
            return self.head(self.hidden(x)) + self.head(self.hidden(-x))

    model = Twice()
    model(X)
    message = r"'head' must be called once.*2 call\(s\).*\(6, 5\), \(6, 5\)\]"
    with pytest.raises(ValueError, match=message):
        logits_and_features(model, model.head, X)
    with pytest.raises(ValueError, match=r"0 call\(s\)"):
        logits_and_features(subclassed, model.head, X)


def test_counterpart_is_in_the_same_place_of_the_copy():
    model, head = _nested_in_functional()
    copy = keras.models.clone_model(model)
    assert counterpart(head, model, copy) is find_head(copy) is not head


class Listed(Subclassed):
    def __init__(self):
        super().__init__()
        self.parts = [self.hidden, {"last": (self.head,)}]
        del self.hidden, self.head

    def call(self, x, training=False):
        hidden, last = self.parts
        return last["last"][0](hidden(x))


class Bound(Subclassed):
    def __init__(self):
        super().__init__()
        self.run = self.compute

    def compute(self, x):
        return self.head(self.hidden(x))

    def call(self, x, training=False):
        return self.run(x)


class Block(layers.Layer):
    """A subclassed model in a functional one in a layer."""

    def __init__(self):
        super().__init__()
        inputs = keras.Input((4,))
        self.inner = keras.Model(inputs, Subclassed()(inputs))

    def build(self, shape):
        pass

    def call(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize("kind", [Listed, Bound, Block])
def test_features_are_found_wherever_a_model_keeps_its_head(kind):
    keras.utils.set_random_seed(0)
    model = kind()
    if kind is Block:
        model = keras.Sequential([keras.Input((4,)), model])
    expected = ops.convert_to_numpy(model(X))
    head = find_head(model, "head")
    logits, features, weights, bias = in_numpy(
        *logits_and_features(model, head, X), head_weights(head), head.bias
    )
    np.testing.assert_array_equal(logits, expected)
    # What makes the logits of it differs from model to model, but not by
    # more than a function of one number.
    order = np.argsort(features @ weights + bias, axis=None)
    assert (np.diff(logits.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantised_head_has_the_weights_that_it_multiplies_by(mode):
    model, head = _sequential()
    keras.utils.set_random_seed(0)
    weights = [np.random.normal(size=w.shape) for w in model.get_weights()]
    weights[3] = 100 + np.arange(3)
    model.set_weights(weights)
    exact = weights[2]
    head.quantize(mode)
    if mode == "float8":
        head.inputs_scale.assign(0.3)
    assert find_head(model) is head
    assert head_features(head) == 5
    logits, features, found = in_numpy(
        *logits_and_features(model, head, X), head_weights(head)
    )
    # Half of a step of 4 bits, and of the 3 bits of a float8 number.
    step = {"int8": 1 / 254, "int4": 1 / 14, "float8": 1 / 16}[mode]
    off = np.abs(found - exact).max()
    assert 0 < off < 1.01 * step * np.abs(exact).max()
    assert features.shape == (6, 5)
    # What is left is the rounding of the features themselves.
    np.testing.assert_allclose(
        logits, features @ found + weights[3], atol=0.3, rtol=0
    )


def test_threads_do_not_see_the_features_of_each_other(subclassed):
    images = np.random.default_rng(0).normal(size=(4, 5, 4)).astype("float32")

    def features(x):
        found = logits_and_features(subclassed, subclassed.head, x)[1]
        return ops.convert_to_numpy(found)

    alone = [features(x) for x in images]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        together = list(threads.map(features, [*images] * 25))
    np.testing.assert_array_equal(together, alone * 25)


def test_refuses_what_is_no_model_or_an_empty_one():
    for thing in (None, "model.keras", layers.Dense(3)):
        with pytest.raises(TypeError, match=r"must be a `keras\.Model` that"):
            find_head(thing)
    with pytest.raises(ValueError, match="has no Dense layer"):
        find_head(keras.Sequential())

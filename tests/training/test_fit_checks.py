"""Data that cannot be right: refused by every entry point, nothing lost.

The model has been fitted on arrays before, so that its steps are compiled.
"""

import itertools

import keras
import numpy as np
import pytest
import small
from small import CLASSES
from small import data
from small import SHAPE

import keras_wake as kw

ATTACK = small.FGSM


def network():
    return small.network(
        lambda: [keras.layers.BatchNormalization()], name="mine"
    )


@pytest.fixture(scope="module")
def model():
    model = small.wake(network(), optimizer=keras.optimizers.SGD(0.01))
    model.fit(X, Y, batch_size=4, validation_data=(X, Y), verbose=0)
    return model


class Sequence(keras.utils.PyDataset):
    """Batches of a list, without end where `count` is None."""

    def __init__(self, batches, count=None):
        super().__init__()
        self.batches, self.count = batches, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


def iter_of(*batches):
    yield from batches


def in_batches(x, y):
    return [(x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]


def dataset(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


ENDLESS = {
    "tf.data": lambda x, y: dataset(x, y).repeat(),
    "PyDataset": lambda x, y: Sequence(in_batches(x, y)),
}

X, Y = data()
ONE_IMAGE = "Give a single image a batch axis"
WIDE = r"shape \(batch, 4, 4, 1\), as the classifier 'mine' takes them\. "
NO_ARRAY = "must be one tensor or array"
A_LIST = f"{NO_ARRAY}.*Received: list"
WRONG = {
    "images in a list": (X.tolist(), Y, TypeError, A_LIST),
    "list of images": (list(X), Y, TypeError, A_LIST),
    "labels in a list": (X, Y.tolist(), TypeError, A_LIST),
    "labels in a dict": (X, {"label": Y}, TypeError, "dict. Take the entry"),
    "images in a dict": ({"image": X}, Y, TypeError, "dict. Take the entry"),
    "two labels": (X, (Y, Y), TypeError, f"Labels {NO_ARRAY}"),
    "no images": (None, Y, TypeError, "Images must.*NoneType"),
    "no labels": (X, None, ValueError, "Labels are missing"),
    "a name": ("images", Y, TypeError, "Images must.*Received: str"),
    "a number": (X, 5, TypeError, "Labels must.*Received: int"),
    "words": (np.full((12, 4), "a"), Y, TypeError, "floating-point"),
    "objects": (X.astype(object), Y, TypeError, "Received: dtype object"),
    "labels as objects": (X, Y.astype(object), TypeError, "dtype object"),
    "names of classes": (X, Y.astype("S1"), TypeError, "Received: strings"),
    "halves": (X, Y + 0.5, TypeError, "must be integers.*float64"),
    "bytes": (np.uint8(255 * X), Y, TypeError, r"uint8.*\) / 255"),
    "whole pixels": (X.astype("int32"), Y, TypeError, "point.*dtype int32"),
    "two classes": (X, np.zeros((12, 2)), ValueError, r"\(12, 2\)"),
    "matrices": (X, np.zeros((12, 3, 1)), ValueError, r"\(12, 3, 1\)"),
    "truth values": (X, Y > 0, TypeError, "must be integers.*bool"),
    "dates": (X, Y.astype("datetime64[D]"), TypeError, "dtype datetime64"),
    "no channel": (X[..., 0], Y, ValueError, WIDE + r"Received: shape \(12, 4"),
    "an axis more": (X[..., None], Y, ValueError, WIDE),
    "too large": (np.zeros((12, 5, 5, 1), "float32"), Y, ValueError, WIDE),
    "channels first": (np.moveaxis(X, -1, 1), Y, ValueError, WIDE),
    "one image": (X[0], Y[0], ValueError, f"{WIDE}.*{ONE_IMAGE}"),
    "one image, one label": (X[0], Y[:1], ValueError, ONE_IMAGE),
    "masked": (np.ma.array(X, mask=X > 0.5), Y, TypeError, "mask would be"),
    "masked labels": (X, np.ma.array(Y, mask=Y > 1), TypeError, "mask would"),
    "fewer labels": (X, Y[:6], ValueError, "12 images and 6 labels"),
    "fewer images": (X[:6], Y, ValueError, "6 images and 12 labels"),
    "one label": (X, Y[:1], ValueError, "12 images and 1 labels"),
    "four classes": (X, np.eye(4)[Y], ValueError, r"Received: shape \(12, 4"),
    "no image": (X[:0], Y[:0], ValueError, "no images|empty"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_data_are_refused_everywhere(model, kind):
    x, y, error, message = WRONG[kind]
    calls = {
        "fit": lambda: model.fit(x, y, verbose=0),
        "validation": lambda: model.fit(
            X, Y, validation_data=(x, y), verbose=0
        ),
        "generator": lambda: model.fit(iter_of((x, y)), verbose=0),
        "evaluate": lambda: model.evaluate(x, y, verbose=0),
        "train_on_batch": lambda: model.train_on_batch(x, y),
        "test_on_batch": lambda: model.test_on_batch(x, y),
        "attack": lambda: ATTACK(model.classifier, x, y),
        "robust_accuracy": lambda: kw.evaluation.robust_accuracy(
            model.classifier, (x, y), ATTACK
        ),
    }
    for name, call in calls.items():
        if "list" in kind and name in ("attack", "robust_accuracy"):
            call()  # For Keras alone, a list is of several inputs.
            continue
        if kind == "no image" and name == "generator":
            continue  # Known only when the step runs.
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_predict_refuses_images_of_another_shape(model, method):
    call = getattr(model, method)
    for x in (X[0], X[..., 0], np.moveaxis(X, -1, 1)):
        with pytest.raises(ValueError, match=WIDE):
            call(x)
    with pytest.raises(TypeError, match=NO_ARRAY):
        call(X.tolist())
    with pytest.raises(ValueError, match="empty"):
        call(X[:0])


def test_columns_of_a_data_frame_are_labels(model):
    pandas = pytest.importorskip("pandas")
    expected = model.evaluate(X, Y, verbose=0)
    for y in (pandas.Series(Y), pandas.DataFrame({"label": Y})):
        assert model.evaluate(X, y, verbose=0) == pytest.approx(expected)
        model.fit(X, y, verbose=0)
        ATTACK(model.classifier, X, y)
        expected = model.evaluate(X, Y, verbose=0)
    with pytest.raises(TypeError, match="Number the classes"):
        model.fit(X, pandas.Series(["cat", "dog", "emu"] * 4), verbose=0)


def test_a_label_that_takes_more_than_32_bits_is_no_class(model):
    y = Y.astype("int64") + 2**32
    message = r"4 label\(s\) .* name no class"
    for call in (
        lambda: model.fit(X, y, batch_size=4, verbose=0),
        lambda: model.evaluate(X, y.astype("uint64"), batch_size=4, verbose=0),
        lambda: model.fit(iter_of(*in_batches(X, y)), verbose=0),
        lambda: model.evaluate(Sequence(in_batches(X, y), 3), verbose=0),
        lambda: model.train_on_batch(X[:4], y[:4]),
        lambda: model.test_on_batch(X[:4], y[:4].astype("uint64")),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# What comes to light only in a batch ---------------------------------------


def test_batches_of_unequal_parts_are_refused(model):
    x, y, weights = X[:4], Y[:4], np.ones(4, "float32")
    for call, *batches in (
        (model.fit, (x, y), (x, y[:1])),
        (model.fit, (x, y, weights), (x, y, weights[:3])),
        (model.evaluate, (x, y), (x, y[:3])),
        (model.evaluate, (x, y, weights), (x, y, weights[:1])),
    ):
        with pytest.raises(ValueError, match="same length"):
            call(Sequence(batches, 2), verbose=0)
    assert np.isfinite(model.evaluate(X, Y, verbose=0)[0])


def test_batches_of_another_shape_are_refused(model):
    for x in (np.zeros((4, 5, 5, 1), "float32"), X[:4, ..., 0]):
        found = Sequence([(x, Y[:4])], 1)
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="classifier"):
                call(found, verbose=0)
        # The step is compiled again for the right ones.
        model.compile(keras.optimizers.SGD(0.01))
    model.fit(X, Y, verbose=0)


def test_a_data_set_yields_pairs(model):
    x, y = X[:4], Y[:4]
    for batch, message in (
        ({"image": x, "label": y}, r'yields a dict\. Take .*batch\["image"\]'),
        (x, r"yields a ndarray\. Labels are missing"),
        ((x,), "yields a tuple of length 1"),
        ((x, y, Y[:4], y), "batches of 4 parts"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.fit(iter_of(batch), verbose=0)
    with pytest.raises(ValueError, match="leave `y` and `sample_weight` out"):
        model.fit(iter_of((x, y)), Y, verbose=0)
    with pytest.raises(TypeError, match=r"not from another iterator.*cycle"):
        model.fit(itertools.cycle([(x, y)]), steps_per_epoch=1, verbose=0)


# Without end ----------------------------------------------------------------


@pytest.mark.parametrize("form", ENDLESS)
def test_data_without_end_are_refused(model, form):
    def endless():
        return ENDLESS[form](X, Y)

    classifier = model.classifier
    matrix_of = kw.attribution.correlation_matrix
    accuracy_of = kw.evaluation.robust_accuracy
    for call, advice in (
        (lambda: model.fit(endless(), verbose=0), "`steps_per_epoch` of"),
        (lambda: model.evaluate(endless(), verbose=0), "`steps` of"),
        (lambda: model.predict(endless(), verbose=0), "and `predict`"),
        (
            lambda: model.fit(X, Y, validation_data=endless(), verbose=0),
            "Set `validation_steps`",
        ),
        (
            lambda: kw.models.reestimate_batch_norm(classifier, endless()),
            r"`data\.take\(n\)`",
        ),
        (lambda: kw.StochasticWeightAveraging(1, endless()), "take"),
        (lambda: kw.EMATeacher(data=endless()), "take"),
        (lambda: kw.CrossClassAttribution(endless()), "take"),
        (lambda: matrix_of(classifier, endless()), "take"),
        (lambda: accuracy_of(classifier, endless(), ATTACK), "take"),
    ):
        with pytest.raises(ValueError, match=f"never ends.*{advice}"):
            call()


def test_data_without_end_are_taken_with_a_number_of_batches(model):
    endless = Sequence(in_batches(X, Y))
    log = model.fit(
        endless,
        steps_per_epoch=2,
        validation_data=endless,
        validation_steps=1,
        epochs=2,
        verbose=0,
        callbacks=[kw.CatastrophicOverfitMonitor()],
    )
    assert len(log.history["val_accuracy"]) == 2
    model.evaluate(endless, steps=1, verbose=0)
    assert len(model.predict(endless, steps=2, verbose=0)) == 8


def test_a_data_loader_without_a_length_is_taken(model):
    utils = pytest.importorskip("torch.utils.data")

    class Stream(utils.IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    loader = utils.DataLoader(Stream(), batch_size=4)
    with pytest.raises(TypeError):
        len(loader)
    model.fit(loader, validation_data=loader, epochs=2, verbose=0)
    expected = model.evaluate(X, Y, batch_size=4, verbose=0)
    assert model.evaluate(loader, verbose=0) == pytest.approx(expected)


def test_images_without_labels_are_refused_before_the_first_step(model):
    tf = pytest.importorskip("tensorflow")
    images = tf.data.Dataset.from_tensor_slices(X).batch(4)
    for call in (model.fit, model.evaluate):
        with pytest.raises(TypeError, match=r"TensorSpec\. Labels are missing"):
            call(images, verbose=0)
    assert model.predict(images, verbose=0).shape == (12, CLASSES)


def test_iterators_without_end_are_refused():
    for endless in (
        itertools.cycle([(X, Y)]),
        itertools.repeat((X, Y)),
        itertools.count(),
    ):
        with pytest.raises(ValueError, match="never ends"):
            kw.models.reestimate_batch_norm(network(), endless)
    kw.models.reestimate_batch_norm(network(), itertools.repeat((X, Y), 2))


def test_a_generator_is_used_up_after_one_pass(model):
    batches = in_batches(X, Y)
    with pytest.raises(ValueError, match=r"2 epochs.*`x`.*steps_per_epoch"):
        model.fit(iter_of(*batches), epochs=2, verbose=0)
    message = r"3 epochs.*`validation_data`.*`validation_steps`"
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, validation_data=iter_of(*batches), epochs=3, verbose=0)
    validation = iter_of(*batches)
    log = model.fit(iter_of(*batches), validation_data=validation, verbose=0)
    assert len(log.history["val_loss"]) == 1


# Other arguments ------------------------------------------------------------


def test_validation_data_are_two_or_three(model):
    for validation in ((X,), (X, Y, None, None)):
        with pytest.raises(ValueError, match=r"must be \(x, y\), \(x, y, samp"):
            model.fit(X, Y, validation_data=validation, verbose=0)
    model.fit(X, Y, validation_data=[X, Y], verbose=0)


def test_weights_of_samples_and_classes(model):
    for weights, error, message in (
        (np.ones(6), ValueError, "12 labels and 6 sample weights"),
        (np.ones((12, 3)), ValueError, r"Received: shape \(12, 3\)"),
        (np.float32(1), ValueError, r"Received: shape \(\)"),
        ([1.0] * 12, TypeError, "`sample_weight` must be one tensor"),
        (np.full(12, "a"), TypeError, "must be numbers"),
    ):
        for call in (model.fit, model.evaluate):
            with pytest.raises(error, match=message):
                call(X, Y, sample_weight=weights, verbose=0)
    for weights, error, message in (
        ([1, 2, 3], TypeError, r"dict\(enumerate\(weights\)\)"),
        ({3: 1.0}, ValueError, "between 0 and 2. Received: 3"),
        ({"0": 1.0}, ValueError, "Received: '0'"),
        ({0: -1.0}, ValueError, "at least 0"),
    ):
        with pytest.raises(error, match=message):
            model.fit(X, Y, class_weight=weights, verbose=0)


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot"])
def test_class_weights_are_those_of_the_samples(model, form):
    y = {"numbers": Y, "column": Y[:, None], "one-hot": np.eye(3)[Y]}[form]
    by_class = np.array([2.0, 0.5, 0.0])
    losses = []
    weights = model.get_weights()
    for given in (
        {"class_weight": dict(enumerate(by_class))},
        {"sample_weight": by_class[Y]},
    ):
        model.set_weights(weights)
        log = model.fit(X, y, batch_size=12, shuffle=False, verbose=0, **given)
        losses.append(log.history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# Values ---------------------------------------------------------------------


def with_fault(part, value):
    """In the third batch of four, after two that are right."""
    x, y = data()
    if part == "soft label":
        y = np.eye(CLASSES, dtype="float32")[y]
    if part == "pixel":
        x[9, 1, 2, 0] = value
    else:
        y[9] = value
    return x, y


NAN = r"1 image\(s\) {} contain NaN"
OUTSIDE = r"1 image\(s\) {} lie outside the bounds \[0, 1\].*divide by 255"
NO_CLASS = r"1 label\(s\) {} name no class.*between 0 and 2"


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("pixel", np.nan, NAN),
        ("pixel", np.inf, NAN),
        ("pixel", 1.001, OUTSIDE),
        ("pixel", -1e-3, OUTSIDE),
        ("label", CLASSES, NO_CLASS),
        ("label", -1, NO_CLASS),
        ("soft label", [0.5, 0, 0], NO_CLASS),
        ("soft label", [1.5, -0.5, 0], NO_CLASS),
        ("soft label", [np.nan, 0, 0], NO_CLASS),
    ],
)
def test_values_are_refused_in_fit_and_evaluate(model, part, value, message):
    x, y = with_fault(part, value)
    options = {"batch_size": 4, "verbose": 0}
    with pytest.raises(ValueError, match=message.format("of epoch 1, batch 3")):
        model.fit(x, y, shuffle=False, epochs=2, **options)
    place = "of evaluation batch 3"
    with pytest.raises(ValueError, match=message.format(place)):
        model.evaluate(x, y, **options)
    # The weights have survived it, and the next fit is not blamed.
    assert_finite(model)
    model.fit(X, Y, verbose=0)


def assert_finite(model):
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


FORMS = {
    "arrays": lambda x, y: {"x": x, "y": y, "batch_size": 4},
    "tf.data": lambda x, y: {"x": dataset(x, y)},
    "generator": lambda x, y: {"x": iter_of(*in_batches(x, y))},
    "PyDataset": lambda x, y: {"x": Sequence(in_batches(x, y), 3)},
}


@pytest.mark.parametrize("form", FORMS)
def test_values_are_refused_in_every_form_of_data(model, form):
    arguments = FORMS[form](*with_fault("pixel", np.nan))
    if form in ("arrays", "PyDataset"):
        arguments["shuffle"] = False
    message = NAN.format("of epoch 1, batch 3")
    with pytest.raises(ValueError, match=message):
        model.fit(**arguments, verbose=0)
    assert_finite(model)


def test_values_are_refused_in_the_validation_of_fit(model):
    bad = with_fault("pixel", np.nan)
    message = NAN.format("of evaluation batch 1")
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, validation_data=bad, batch_size=12, verbose=0)


def test_nothing_is_saved_after_a_fault(model, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True, save_freq=1
    )
    bad = with_fault("pixel", np.nan)
    with pytest.raises(ValueError, match="batch 1 contain NaN"):
        model.fit(*bad, verbose=0, callbacks=[checkpoint])
    assert list(tmp_path.iterdir()) == []


def test_rounding_is_no_fault(model):
    for value in (-1e-7, 1 + 5e-7):
        x, y = with_fault("pixel", value)
        model.fit(x, y, verbose=0)
        assert np.isfinite(model.evaluate(x, y, verbose=0)[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: (np.zeros((0, *SHAPE), "float32"), np.zeros(0, "int32")),
        lambda: (dataset(X, Y).take(0),),
        # Of unknown size.
        lambda: (dataset(X, Y).filter(lambda x, y: False),),
    ],
)
# Keras warns that it ran out of data.
@pytest.mark.filterwarnings("ignore")
def test_empty_data_are_refused(model, make):
    empty = make()
    validation = empty if len(empty) == 2 else empty[0]
    for call in (
        lambda: model.fit(*empty, verbose=0),
        lambda: model.evaluate(*empty, verbose=0),
        lambda: model.fit(X, Y, validation_data=validation, verbose=0),
    ):
        with pytest.raises(ValueError, match="data set is empty"):
            call()


@pytest.mark.parametrize("form", ["arrays", "tf.data"])
def test_the_form_of_the_labels_may_change(model, form):
    one_hot = np.eye(CLASSES, dtype="float32")[Y]
    losses = [
        model.evaluate(**FORMS[form](X, labels), verbose=0)[0]
        for labels in (Y, one_hot, Y[:, None])
    ]
    # The same labels, so the same numbers.
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-6)
    # The fits before had class numbers.
    model.fit(**FORMS[form](X, one_hot), verbose=0)

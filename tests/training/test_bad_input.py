"""Data that cannot be right, in `fit` and `evaluate`: refused, nothing lost."""

import warnings

import keras
import numpy as np
import pytest

import keras_wake as kw

SHAPE = (4, 4, 1)
CLASSES = 3


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(CLASSES),
        ]
    )
    attack = kw.attacks.FGSM(epsilon=0.1)
    model = kw.WakeModel(classifier, attack, eval_attack=attack)
    model.compile(keras.optimizers.SGD(0.01))
    return model


def data(count=12):
    rng = np.random.default_rng(0)
    x = rng.random((count, *SHAPE), np.float32)
    return x, (np.arange(count) % CLASSES).astype("int32")


def with_value(value, at=9):
    x, y = data()
    x[at, 1, 2, 0] = value
    return x, y


def with_label(label, at=9):
    x, y = data()
    y[at] = label
    return x, y


def soft(row):
    x, y = data()
    labels = np.eye(CLASSES, dtype="float32")[y]
    labels[9] = row
    return x, labels


def dataset(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def generator(x, y):
    for first in range(0, len(x), 4):
        yield x[first : first + 4], y[first : first + 4]


class Sequence(keras.utils.PyDataset):
    """Batches of four from arrays."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 4

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return self.x[part], self.y[part]


def as_arrays(x, y):
    return {"x": x, "y": y, "batch_size": 4, "shuffle": False}


FORMS = {
    "arrays": as_arrays,
    "tf.data": lambda x, y: {"x": dataset(x, y)},
    "generator": lambda x, y: {"x": generator(x, y)},
    "PyDataset": lambda x, y: {"x": Sequence(x, y), "shuffle": False},
}

# In the third batch of four, after two that are right.
FAULTS = {
    "nan": (lambda: with_value(np.nan), r"1 image\(s\) {} contain NaN"),
    "infinite": (lambda: with_value(np.inf), r"1 image\(s\) {} contain NaN"),
    "above": (
        lambda: with_value(1.001),
        r"1 image\(s\) {} lie outside the bounds \[0, 1\].*divide by 255",
    ),
    "below": (
        lambda: with_value(-1e-3),
        r"1 image\(s\) {} lie outside the bounds",
    ),
    "label above": (
        lambda: with_label(CLASSES),
        r"1 label\(s\) {} name no class.*between 0 and 2",
    ),
    "label below": (lambda: with_label(-1), r"1 label\(s\) {} name no class"),
    "soft sum": (lambda: soft([0.5, 0, 0]), r"1 label\(s\) {} name no class"),
    "soft negative": (
        lambda: soft([1.5, -0.5, 0]),
        r"1 label\(s\) {} name no class",
    ),
    "soft nan": (
        lambda: soft([np.nan, 0, 0]),
        r"1 label\(s\) {} name no class",
    ),
}


def assert_finite(model):
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_values_are_refused_in_fit_and_evaluate(model, fault):
    make, message = FAULTS[fault]
    arguments = as_arrays(*make())
    with pytest.raises(ValueError, match=message.format("of epoch 1, batch 3")):
        model.fit(**arguments, epochs=2, verbose=0)
    del arguments["shuffle"]
    with pytest.raises(
        ValueError, match=message.format("of evaluation batch 3")
    ):
        model.evaluate(**arguments, verbose=0)
    # The weights have survived it, and the next fit is not blamed.
    assert_finite(model)
    model.fit(*data(), verbose=0)


@pytest.mark.parametrize("form", FORMS)
def test_values_are_refused_in_every_form_of_data(model, form):
    arguments = FORMS[form](*with_value(np.nan))
    with pytest.raises(
        ValueError, match=r"1 image\(s\) of epoch 1, batch 3 contain NaN"
    ):
        model.fit(**arguments, verbose=0)
    assert_finite(model)


def test_values_are_refused_in_the_validation_of_fit(model):
    with pytest.raises(
        ValueError, match=r"1 image\(s\) of evaluation batch 1 contain NaN"
    ):
        model.fit(
            *data(),
            validation_data=with_value(np.nan),
            batch_size=12,
            verbose=0,
        )


def test_nothing_is_saved_after_a_fault(model, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True, save_freq=1
    )
    with pytest.raises(ValueError, match="batch 1 contain NaN"):
        model.fit(*with_value(np.nan), verbose=0, callbacks=[checkpoint])
    assert list(tmp_path.iterdir()) == []


def test_rounding_is_no_fault(model):
    for value in (-1e-7, 1 + 5e-7):
        model.fit(*with_value(value), verbose=0)
        loss = model.evaluate(*with_value(value), verbose=0)[0]
        assert np.isfinite(loss)


def empty_arrays():
    return {
        "x": np.zeros((0, *SHAPE), "float32"),
        "y": np.zeros(0, "int32"),
    }


def empty_dataset():
    return {"x": dataset(*data()).take(0)}


def empty_dataset_of_unknown_size():
    return {"x": dataset(*data()).filter(lambda x, y: False)}


EMPTY = [empty_arrays, empty_dataset, empty_dataset_of_unknown_size]


@pytest.mark.parametrize("make", EMPTY)
def test_empty_data_are_refused(model, make):
    empty = make()
    validation = (empty["x"], empty["y"]) if "y" in empty else empty["x"]
    with warnings.catch_warnings():
        # Keras warns that it ran out of data.
        warnings.simplefilter("ignore")
        for call in (
            lambda: model.fit(**empty, verbose=0),
            lambda: model.evaluate(**empty, verbose=0),
            lambda: model.fit(*data(), validation_data=validation, verbose=0),
        ):
            with pytest.raises(ValueError, match="data set is empty"):
                call()


@pytest.mark.parametrize("form", ["arrays", "tf.data"])
def test_the_form_of_the_labels_may_change(model, form):
    x, y = data()
    one_hot = np.eye(CLASSES, dtype="float32")[y]
    losses = []
    for labels in (y, one_hot, y[:, None]):
        arguments = FORMS[form](x, labels)
        arguments.pop("shuffle", None)
        losses.append(model.evaluate(**arguments, verbose=0)[0])
    # The same labels, so the same numbers.
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-6)
    # The fits before had class numbers.
    model.fit(**FORMS[form](x, one_hot), verbose=0)

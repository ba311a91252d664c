"""CrossClassAttribution with its own data, its figures and its refusals.

What it measures in the validation pass is compared with the stand-alone
function in `tests/test_wake_model.py`.
"""

import keras
import numpy as np
import pytest

import keras_wake as kw

SHAPE = (4, 4, 1)
ATTACK = kw.attacks.PGD(epsilon=0.1, steps=2, random_start=False)


def data(seed=0, count=21):
    rng = np.random.default_rng(seed)
    x = rng.random((count, *SHAPE), np.float32)
    return x, np.arange(count, dtype="int32") % 3


def wake():
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="elu"),
            keras.layers.Dense(3),
        ]
    )
    model = kw.WakeModel(classifier, ATTACK, eval_attack=ATTACK)
    model.compile(keras.optimizers.SGD(0.3))
    return model


def fit(model, callbacks, epochs=4, **kwargs):
    return model.fit(
        *data(), epochs=epochs, verbose=0, callbacks=callbacks, **kwargs
    ).history


def test_own_data_is_measured_and_logged_every_n_epochs(tmp_path):
    model = wake()
    other = data(seed=5)
    attack = kw.attacks.FGSM(epsilon=0.2)
    attribution = kw.callbacks.CrossClassAttribution(
        other, attack, every=2, path=tmp_path, class_names=["a", "b", "c"]
    )
    seen = []
    history = fit(
        model,
        [
            kw.callbacks.EMATeacher(0.5),
            attribution,
            # Those that come after it find its keys in the logs.
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
            ),
        ],
    )
    assert [entry["epoch"] for entry in attribution.history] == [2, 4]
    assert ["val_cas" in logs for logs in seen] == [False, True, False, True]
    assert history["val_cas"] == [e["cas"] for e in attribution.history]
    for network, matrix, score in (
        (model.classifier, attribution.correlation, attribution.cas),
        (
            model.teacher,
            attribution.teacher_correlation,
            attribution.teacher_cas,
        ),
    ):
        expected = kw.attribution.correlation_matrix(network, other, attack)
        # The same function on the same images.
        np.testing.assert_allclose(matrix, expected, atol=1e-6)
        assert score == pytest.approx(kw.attribution.cas(expected), abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "correlation_epoch_0002.png",
        "correlation_epoch_0004.png",
    ]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_fails_is_a_warning(tmp_path):
    blocked = tmp_path / "a_file"
    blocked.write_text("not a folder")
    attribution = kw.callbacks.CrossClassAttribution(path=blocked)
    with pytest.warns(UserWarning, match="could not be drawn.*goes on"):
        history = fit(wake(), [attribution], epochs=1, validation_data=data(1))
    assert history["val_cas"] == pytest.approx([attribution.cas], abs=1e-5)


def test_a_class_without_samples_is_nan_and_warned_of_once():
    x, y = data(1)
    present = y != 1
    attribution = kw.callbacks.CrossClassAttribution()
    with pytest.warns(UserWarning, match="1 of 3 classes have no") as caught:
        history = fit(
            wake(),
            [attribution],
            epochs=2,
            validation_data=(x[present], y[present]),
        )
    assert sum("have no samples" in str(w.message) for w in caught) == 1
    matrix = attribution.correlation
    assert np.isnan(matrix[1]).all()
    assert np.isnan(matrix[:, 1]).all()
    pair = matrix[0, 2]
    assert np.isfinite(pair)
    # In the compiled step as in NumPy: what is missing adds nothing.
    expected = 2 * max(pair, 0)
    assert attribution.cas == pytest.approx(expected)
    assert history["val_cas"][-1] == pytest.approx(expected, abs=1e-5)


def test_validating_every_other_epoch_measures_every_other_epoch():
    attribution = kw.callbacks.CrossClassAttribution()
    fit(wake(), [attribution], validation_data=data(1), validation_freq=2)
    assert [entry["epoch"] for entry in attribution.history] == [2, 4]


def test_refuses_fit_without_validation():
    with pytest.raises(
        ValueError, match=r"`fit` has none. Pass `validation_data=`"
    ):
        fit(wake(), [kw.callbacks.CrossClassAttribution()])
    # A split of the training data is a validation as well.
    attribution = kw.callbacks.CrossClassAttribution()
    fit(wake(), [attribution], epochs=1, validation_split=0.5)
    assert attribution.cas is not None


def test_refuses_an_attack_without_data_and_a_bad_interval():
    with pytest.raises(ValueError, match=r"`head` are for `data`.*PGD\("):
        kw.callbacks.CrossClassAttribution(attack=ATTACK)
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        kw.callbacks.CrossClassAttribution(every=0)


class Subclassed(keras.Model):
    """A classifier whose head cannot be found."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, x):
        return self.logits(self.flatten(x))


@pytest.mark.parametrize("where", ["model", "callback", "layer"])
def test_a_named_head_serves_student_and_teacher(where):
    keras.utils.set_random_seed(0)
    classifier = Subclassed()
    classifier(data()[0])
    head = "logits" if where != "layer" else classifier.logits
    model = kw.WakeModel(
        classifier,
        ATTACK,
        eval_attack=ATTACK,
        head="logits" if where == "model" else None,
    )
    model.compile(keras.optimizers.SGD(0.3))
    callback = kw.CrossClassAttribution(
        data=data(), head=None if where == "model" else head
    )
    fit(model, [kw.EMATeacher(0.5), callback], epochs=2)
    expected = kw.attribution.correlation_matrix(
        model.teacher, data(), ATTACK, head=model.teacher.logits
    )
    # The same images, attack and weights, summed in the same order.
    np.testing.assert_allclose(callback.teacher_correlation, expected)


def test_a_head_without_data_is_refused():
    with pytest.raises(ValueError, match="`head` are for `data`"):
        kw.CrossClassAttribution(head="logits")


def test_data_that_can_be_read_once_are_refused():
    generator = (batch for batch in [data()])
    with pytest.raises(ValueError, match=r"more than once.*generator"):
        kw.CrossClassAttribution(data=generator)


@pytest.mark.parametrize("given", [False, True])
def test_no_attribution_at_all_is_not_the_best_score(given):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, kernel_initializer="zeros"),
            keras.layers.ReLU(),
            keras.layers.Dense(4, name="head"),
        ]
    )
    model = kw.WakeModel(network, kw.attacks.FGSM(epsilon=0.1), "standard")
    model.compile(keras.optimizers.SGD(0.0))
    x = np.random.default_rng(0).random((8, 4), np.float32)
    y = np.arange(8, dtype="int32") % 4
    callback = kw.CrossClassAttribution(data=(x, y) if given else None)
    with pytest.warns(UserWarning, match="4 of 4 classes"):
        log = model.fit(
            x,
            y,
            validation_data=(x, y),
            verbose=0,
            callbacks=[callback],
        ).history
    assert np.isnan(log["val_cas"]).all() and np.isnan(callback.cas)

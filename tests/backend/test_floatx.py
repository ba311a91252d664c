"""`keras.config.set_floatx` is for a network, not for what is around it."""

import keras
import numpy as np
import pytest
import small

import keras_wake as kw

SHAPE = (4, 4, 1)
CLASSES = 3


@pytest.fixture(autouse=True)
def floatx_comes_back():
    before = keras.config.floatx()
    yield
    keras.config.set_floatx(before)


def data(count=300):
    rng = np.random.default_rng(0)
    y = np.arange(count) % CLASSES
    x = 0.3 * rng.random((count, *SHAPE)) + 0.3 * y[:, None, None, None]
    return x.astype("float32"), y.astype("int32")


def network(dtype):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dense(CLASSES, kernel_regularizer="l2", dtype=dtype),
        ]
    )
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(16, CLASSES)) / 4
    model.layers[-1].kernel.assign(kernel.astype("float32"))
    return model


def wake(dtype, attack, **arguments):
    # A rate that each type has exactly: Keras keeps it in `floatx`.
    optimizer = keras.optimizers.SGD(0.0625)
    return small.wake(network(dtype), attack, optimizer, **arguments)


def trained(dtype, objective):
    """The last logs of a fit, and the average's robust accuracy."""
    attack = kw.attacks.FGSM(epsilon=0.1, random_start=True)
    ramp = kw.schedules.DistillationRamp(1, 2)
    model = wake(dtype, attack, objective=objective, schedule=ramp)
    log = model.fit(
        *data(),
        batch_size=100,
        shuffle=False,
        epochs=2,
        validation_data=data(),
        callbacks=[kw.EMATeacher(decay=0.5), kw.CrossClassAttribution()],
        verbose=0,
    )
    return {name: values[-1] for name, values in log.history.items()}


def test_a_network_in_float32_is_trained_alike():
    expected = trained("float32", "trades")
    keras.config.set_floatx("float64")
    found = trained("float32", "trades")
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_network_in_float64_is_trained():
    expected = trained("float32", "at")
    keras.config.set_floatx("float64")
    # Apart from rounding, which may decide the prediction for one image.
    assert trained("float64", "at") == pytest.approx(
        expected, rel=1e-4, abs=1.5 / 300
    )


@pytest.mark.usefixtures("eagerly")
def test_attribution_alone_is_measured():
    keras.config.set_floatx("float64")
    attack = kw.attacks.FGSM(epsilon=0.1)
    model = wake("float64", attack)
    pair = data(30)
    callbacks = [kw.CrossClassAttribution()]
    log = model.fit(
        *pair, validation_data=pair, callbacks=callbacks, verbose=0
    ).history
    matrix = kw.attribution.correlation_matrix(
        model.classifier, pair, attack=attack
    )
    cas = kw.attribution.cas(matrix)
    assert log["val_cas"][0] == pytest.approx(cas, rel=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_attacks_and_analyses_do_not_depend_on_it():
    x, y = (part[:12] for part in data())
    attacks = [
        kw.attacks.PGD(epsilon=0.1, steps=2, loss="kl"),
        kw.attacks.APGD(epsilon=0.1, steps=3),
        kw.attacks.FAB("l2", epsilon=0.5, steps=2),
        kw.attacks.Square(epsilon=0.1, queries=5),
    ]

    def results():
        model = network("float32")
        found = [
            keras.ops.convert_to_numpy(attack(model, x, y, seed=0))
            for attack in attacks
        ]
        found.append(kw.attribution.correlation_matrix(model, (x, y)))
        return found

    right = results()
    keras.config.set_floatx("float64")
    for value, other in zip(results(), right, strict=True):
        assert value.dtype == other.dtype
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_half_precision_by_default_is_refused(floatx):
    model = wake("float32", small.FGSM)
    x, y = data(3)
    keras.config.set_floatx(floatx)
    message = rf'float32 or float64.*{floatx}.*"mixed_{floatx}"'
    for call in (
        lambda: model.fit(x, y),
        lambda: model.evaluate(x, y),
        lambda: kw.WakeModel(model.classifier, small.FGSM),
        lambda: small.FGSM(model.classifier, x, y),
        lambda: kw.attribution.correlation_matrix(model.classifier, (x, y)),
    ):
        with pytest.raises(ValueError, match=message):
            call()

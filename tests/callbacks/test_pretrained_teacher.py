"""What cannot be a pretrained teacher, refused at the earliest point.

What the student learns from one is compared in `training/test_methods.py`.
"""

import keras
import numpy as np
import pytest

import keras_wake as kw

SHAPE = (4, 4, 1)
eagerly = pytest.mark.usefixtures("eagerly")


def network(shape=SHAPE, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)]
    )


def wake(classifier=None):
    attack = kw.attacks.FGSM(epsilon=0.05)
    model = kw.WakeModel(classifier or network(), attack)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def fit(model, *teachers):
    x = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    y = np.arange(8, dtype="int32") % 3
    return model.fit(x, y, verbose=0, callbacks=list(teachers))


@pytest.mark.parametrize("given", ["robust.keras", None, network])
def test_must_be_a_model(given):
    with pytest.raises(
        TypeError,
        match=r"`teacher` must be a built `keras\.Model`.*load_model\(path\)`"
        r"\. Received: teacher=",
    ):
        kw.PretrainedTeacher(given, 0.5)


def test_a_wake_model_is_two():
    with pytest.raises(TypeError, match=r"holds two.*`\.robust_classifier`"):
        kw.PretrainedTeacher(wake(), 0.5)


@pytest.mark.parametrize("shape", [(4, 4, 3), (5, 4, 1), (16,)])
def test_must_take_the_images_of_the_student(shape):
    teacher = kw.PretrainedTeacher(network(shape), 0.5)
    with pytest.raises(
        ValueError, match=r"images of the student\. Received: .*\(4, 4, 1\)"
    ):
        fit(wake(), teacher)


@eagerly
def test_may_take_images_of_any_size():
    layers = keras.layers
    anything = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    log = fit(wake(), kw.PretrainedTeacher(anything, 0.5)).history
    assert log["kd_weight"] == [0.5]


@eagerly
def test_must_not_share_variables_with_the_student():
    student = network()
    head = keras.layers.Dense(3)
    other = keras.Sequential([*student.layers[:-1], head])
    other.build((None, *SHAPE))
    shared = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), student.layers[-1]]
    )
    fit(wake(student), kw.PretrainedTeacher(other, 0.5))  # It shares none.
    with pytest.raises(
        ValueError,
        match=r"a network of its own.*shares 2 variables.*kernel'.*Copy it",
    ):
        fit(wake(student), kw.PretrainedTeacher(shared, 0.5))


@eagerly
def test_the_same_callback_twice_is_refused():
    teacher = kw.PretrainedTeacher(network(seed=1), 0.3)
    with pytest.raises(
        ValueError, match=r"The same `PretrainedTeacher` is twice.*weight=0\.3"
    ):
        fit(wake(), teacher, teacher)
    model = wake()
    # In fit after fit it may be, and so may two callbacks of one network.
    for _ in range(2):
        again = kw.PretrainedTeacher(teacher.teacher, 0.3)
        log = fit(model, teacher, again).history
        assert log["kd_weight"] == pytest.approx([0.6])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_high_temperature_compares_the_logits(policy):
    """T² · KL tends to half the variance of s − t over the classes."""
    student, teacher = (
        keras.Sequential(
            [
                keras.Input(SHAPE),
                keras.layers.Flatten(),
                keras.layers.Dense(3, dtype=policy),
            ]
        )
        for _ in range(2)
    )
    rng = np.random.default_rng(1)
    for network_ in (student, teacher):
        network_.set_weights([rng.normal(0, 1, (16, 3)), rng.normal(0, 1, 3)])
    x = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    pixels = x.reshape(8, 16).astype("float64")
    before, (kernel, bias) = student.get_weights()[0], teacher.get_weights()
    difference = pixels @ (before - kernel) + student.get_weights()[1] - bias
    centred = difference - difference.mean(axis=1, keepdims=True)

    model = kw.WakeModel(student, None, "standard", temperature=1e6)
    model.compile(keras.optimizers.SGD(1.0))
    log = fit(model, kw.PretrainedTeacher(teacher, 1.0)).history
    # Logits in float16 are rounded to 0.002.
    tolerance = 1e-4 if policy == "float32" else 1e-2
    loss = np.var(difference, axis=1).mean() / 2
    np.testing.assert_allclose(log["loss"], [loss], rtol=tolerance)
    step = before - student.get_weights()[0]
    expected = pixels.T @ centred / 3 / 8
    np.testing.assert_allclose(step, expected, atol=tolerance)

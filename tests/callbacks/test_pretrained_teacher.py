"""What cannot be a pretrained teacher, refused at the earliest point.

What the student learns from one is compared in `training/test_methods.py`.
"""

import keras
import numpy as np
import pytest
from small import data
from small import fit
from small import network
from small import SHAPE
from small import wake

import keras_wake as kw

eagerly = pytest.mark.usefixtures("eagerly")


def test_must_be_one_model():
    message = (
        r"`teacher` must be a built `keras\.Model`.*load_model\(path\)`"
        r"\. Received: teacher="
    )
    for given in ("robust.keras", None, network):
        with pytest.raises(TypeError, match=message):
            kw.PretrainedTeacher(given, 0.5)
    with pytest.raises(TypeError, match=r"holds two.*`\.robust_classifier`"):
        kw.PretrainedTeacher(wake(), 0.5)


@pytest.mark.parametrize("shape", [(4, 4, 3), (5, 4, 1), (16,)])
def test_must_take_the_images_of_the_student(shape):
    teacher = kw.PretrainedTeacher(network(shape=shape), 0.5)
    with pytest.raises(
        ValueError, match=r"images of the student\. Received: .*\(4, 4, 1\)"
    ):
        fit(wake(), teacher)


@eagerly
def test_may_take_images_of_any_size():
    pooling = keras.layers.GlobalAveragePooling2D()
    anything = keras.Sequential(
        [keras.Input((None, None, 1)), pooling, keras.layers.Dense(3)]
    )
    log = fit(wake(), kw.PretrainedTeacher(anything, 0.5)).history
    assert log["kd_weight"] == [0.5]


@eagerly
def test_must_not_share_variables_with_the_student():
    student = network()
    flatten, head = student.layers
    images = keras.Input(SHAPE)
    other = keras.Sequential([images, flatten, keras.layers.Dense(3)])
    shared = keras.Sequential([images, keras.layers.Flatten(), head])
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
    pixels = data(8)[0].reshape(8, 16).astype("float64")
    before, (kernel, bias) = student.get_weights()[0], teacher.get_weights()
    difference = pixels @ (before - kernel) + student.get_weights()[1] - bias
    centred = difference - difference.mean(axis=1, keepdims=True)

    model = kw.WakeModel(student, None, "standard", temperature=1e6)
    model.compile(keras.optimizers.SGD(1.0))
    log = fit(model, kw.PretrainedTeacher(teacher, 1.0), count=8).history
    # Logits in float16 are rounded to 0.002.
    tolerance = 1e-4 if policy == "float32" else 1e-2
    loss = np.var(difference, axis=1).mean() / 2
    np.testing.assert_allclose(log["loss"], [loss], rtol=tolerance)
    step = before - student.get_weights()[0]
    expected = pixels.T @ centred / 3 / 8
    np.testing.assert_allclose(step, expected, atol=tolerance)

"""Stochastic weight averaging against the mean that it stands for."""

import keras
import numpy as np
import pytest
import small
from small import assert_same
from small import patterns

import keras_wake as kw

eagerly = pytest.mark.usefixtures("eagerly")


def wake(batch_norm=False):
    def hidden():
        yield keras.layers.Reshape(small.SHAPE)
        yield keras.layers.Conv2D(4, 3)
        if batch_norm:
            yield keras.layers.BatchNormalization()
        yield keras.layers.ReLU()
        yield keras.layers.Flatten()

    optimizer = keras.optimizers.SGD(0.2, momentum=0.9)
    return small.wake(small.network(hidden), optimizer=optimizer)


class Weights(keras.callbacks.Callback):
    """Copies the student, and the teacher, of every epoch."""

    def __init__(self):
        super().__init__()
        self.students, self.teachers = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.students.append(self.model.classifier.get_weights())
        self.teachers.append(self.model.teacher.get_weights())


def fit(model, *callbacks, epochs=5, **arguments):
    arguments = {"count": 24, "batch_size": 8, "epochs": epochs, **arguments}
    return small.fit(model, *callbacks, images=patterns, **arguments).history


@pytest.mark.parametrize("validate", [False, True])
def test_average_is_the_mean_of_the_epochs(validate):
    model, weights = wake(), Weights()
    average = kw.StochasticWeightAveraging(start_epoch=3)
    validation = patterns() if validate else None
    history = fit(model, average, weights, validation_data=validation)
    for last in (2, 3, 4):
        for n, value in enumerate(weights.teachers[last]):
            seen = [student[n] for student in weights.students[2 : last + 1]]
            # Means of up to three float32 numbers below 2, one by one.
            np.testing.assert_allclose(value, np.mean(seen, 0), atol=1e-6)
    assert model.robust_classifier is model.teacher
    assert int(keras.ops.convert_to_numpy(model.teacher_updates)) == 3
    key = "val_teacher_robust_accuracy"
    if not validate:
        assert key not in history
        return
    # From the third epoch on the average is validated, and as it is then.
    assert len(history[key]) == 3
    logs = model.evaluate(*patterns(), verbose=0, return_dict=True)
    assert logs["teacher_robust_accuracy"] == history[key][-1]
    assert "kd_weight" in history and set(history["kd_weight"]) == {0.0}


@eagerly
def test_average_that_never_begins_is_told():
    model = wake()
    with pytest.warns(UserWarning, match="ends with epoch 2, before averaging"):
        logs = fit(model, kw.StochasticWeightAveraging(55), epochs=2)
    assert model.robust_classifier is model.classifier
    assert "val_teacher_accuracy" not in logs


@eagerly
def test_batch_norm_statistics_are_those_of_the_data():
    model = wake(batch_norm=True)
    average = kw.StochasticWeightAveraging(2, data=patterns(24))
    fit(model, average, epochs=3)
    convolution, norm = model.teacher.layers[2:4]
    out = keras.ops.convert_to_numpy(convolution(patterns(24)[0]))
    out = out.astype("float64")
    mean, variance = norm.get_weights()[2:]
    np.testing.assert_allclose(mean, out.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(variance, out.var((0, 1, 2)), rtol=1e-4)
    with pytest.raises(ValueError, match="needs training images"):
        fit(wake(batch_norm=True), kw.StochasticWeightAveraging(2))


@eagerly
def test_a_run_that_was_broken_off_goes_on(tmp_path):
    whole, weights = wake(), Weights()
    fit(whole, kw.StochasticWeightAveraging(2), weights)
    for epochs in (3, 5):
        model = wake()
        backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
        fit(model, kw.StochasticWeightAveraging(2), backup, epochs=epochs)
    assert_same(model.get_weights(), whole.get_weights())


@eagerly
def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="`start_epoch` must be at least 1"):
        kw.StochasticWeightAveraging(0)
    with pytest.raises(TypeError, match="works with `keras_wake"):
        kw.StochasticWeightAveraging(1).set_model(keras.Sequential())
    with pytest.raises(ValueError, match="A model has one average"):
        fit(wake(), kw.StochasticWeightAveraging(1), kw.EMATeacher())
    scheduled = small.wake(schedule=kw.schedules.DistillationRamp(1, 2))
    with pytest.raises(ValueError, match="distils from a running average"):
        fit(scheduled, kw.StochasticWeightAveraging(1))

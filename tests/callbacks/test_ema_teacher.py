"""EMATeacher: batch-norm modes, and what it refuses.

The average itself is compared with its closed form and with a reference in
`tests/training/test_train_step.py`.
"""

import warnings

import keras
import numpy as np
import pytest
import small
from small import data
from small import fit
from small import wake

import keras_wake as kw
from keras_wake.models import reestimate_batch_norm

EPSILON = 1e-3
eagerly = pytest.mark.usefixtures("eagerly")


def network():
    """Two batch norms, so that the second sees the first's batch statistics."""
    return small.network(
        lambda: [
            keras.layers.BatchNormalization(epsilon=EPSILON, momentum=0.9),
            keras.layers.Dense(5, name="hidden"),
            keras.layers.BatchNormalization(epsilon=EPSILON, momentum=0.7),
            keras.layers.ReLU(),
        ]
    )


def ramped(start, end):
    return wake(schedule=kw.schedules.DistillationRamp(start, end))


def batches(x, y, size=5):
    return [(x[n : n + size], y[n : n + size]) for n in range(0, len(x), size)]


def norms(model):
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def statistics(model):
    return [
        np.asarray(v)
        for layer in norms(model)
        for v in (layer.moving_mean, layer.moving_variance)
    ]


def statistics_by_hand(model, x, size):
    """Means over batches, weighted by size, of each batch's statistics."""
    first, _ = norms(model)
    kernel, bias = (
        w.astype("float64") for w in model.get_layer("hidden").get_weights()
    )
    total = [0.0] * 4
    for images, _ in batches(x, x, size):
        features = images.reshape(len(images), -1).astype("float64")
        seen = [features.mean(0), features.var(0)]
        gamma, beta = (np.asarray(w) for w in (first.gamma, first.beta))
        features = (features - seen[0]) / np.sqrt(seen[1] + EPSILON)
        features = (gamma * features + beta) @ kernel + bias
        seen += [features.mean(0), features.var(0)]
        total = [t + len(images) * s for t, s in zip(total, seen, strict=True)]
    return [t / len(x) for t in total]


def assert_equal(values, expected):
    # Variances of order 1 in float32, as the mean of thirteen numbers.
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=2e-5)


def test_reestimate_is_the_mean_over_one_pass():
    model = network()
    x, y = data(13)
    weights = model.trainable_weights
    before = [np.asarray(w) for w in weights]
    # Thirteen images: the last batch of three counts less than five.
    reestimate_batch_norm(model, batches(x, y))
    assert_equal(statistics(model), statistics_by_hand(model, x, 5))
    small.assert_same(weights, before)
    assert [layer.momentum for layer in norms(model)] == [0.9, 0.7]


def test_reestimate_refuses_empty_data_and_restores_the_momentum():
    model = network()
    with pytest.raises(ValueError, match="data set is empty"):
        reestimate_batch_norm(model, [])
    assert [layer.momentum for layer in norms(model)] == [0.9, 0.7]


class AtValidation(keras.callbacks.Callback):
    """Looks at the teacher while the validation runs."""

    def __init__(self, x):
        super().__init__()
        self.x = x
        self.seen = []

    def on_test_batch_end(self, batch, logs=None):
        teacher = self.model.teacher
        self.seen.append(
            (statistics(teacher), statistics_by_hand(teacher, self.x, 5))
        )


@eagerly
def test_statistics_are_fresh_in_every_validation_and_at_the_end():
    x, y = data(13)
    model = wake(network(), schedule=kw.schedules.DistillationRamp(1, 3))
    teacher = kw.EMATeacher(0.5, batch_norm="reestimate", data=batches(x, y))
    callback = AtValidation(x)
    fit(model, teacher, callback, count=13, epochs=4, validation_data=(x, y))
    assert len(callback.seen) == 4
    for seen, expected in callback.seen:
        assert_equal(seen, expected)
    # They moved with the weights before them, and froze with these.
    moved = np.abs(callback.seen[0][0][3] - callback.seen[1][0][3]).max()
    assert moved > 1e-4
    assert_equal(statistics(model.teacher), callback.seen[1][0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1.0}, ValueError, "at least 0 and below 1.*decay=1.0"),
        ({"decay": -0.1}, ValueError, "`decay` must be at least 0 and below"),
        ({"decay": "0.9"}, TypeError, "`decay` must be a real number"),
        (
            {"batch_norm": "none"},
            ValueError,
            "one of 'average', 'copy', 'reestimate'.*'none'",
        ),
        (
            {"batch_norm": "reestimate"},
            ValueError,
            "`data` is for.*needs it.*data=None",
        ),
        ({"data": [1]}, ValueError, "`data` is for.*batch_norm='average'"),
        ({"data": iter([1])}, ValueError, "more than once.*list_iterator"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        kw.callbacks.EMATeacher(**arguments)


@eagerly
def test_a_second_fit_continues_the_schedule_or_warns():
    model = ramped(1, 3)

    def weights(**epochs):
        return fit(model, kw.EMATeacher(0.5), **epochs).history["kd_weight"]

    assert weights(epochs=3) == [0.0, 0.5, 1.0]
    updates = int(model.teacher_updates)
    assert weights(epochs=5, initial_epoch=3) == [1.0, 1.0]
    assert int(model.teacher_updates) == updates
    with pytest.warns(UserWarning, match=r"starts again at epoch 1"):
        assert weights(epochs=2) == [0.0, 0.5]
    assert int(model.teacher_updates) > updates


@eagerly
def test_the_first_of_several_calls_may_end_before_the_ramp(recwarn):
    model, teacher = ramped(2, 3), kw.EMATeacher()
    weights = [
        fit(model, teacher, initial_epoch=first, epochs=first + 1).history
        for first in (0, 1, 2)
    ]
    assert [log["kd_weight"] for log in weights] == [[0.0], [0.0], [1.0]]
    assert not [w for w in recwarn if "distillation" in str(w.message)]


@eagerly
@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (2, False)])
def test_a_ramp_beyond_the_last_epoch_is_a_warning(epochs, warned):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        fit(ramped(1, 3), kw.EMATeacher(), epochs=epochs)
    texts = [str(w.message) for w in seen if w.category is UserWarning]
    expected = (
        "`fit` ends with epoch 1, before distillation begins: "
        "DistillationRamp(start_epoch=1, end_epoch=3, peak=1.0, final=1.0). "
        "Train for more than 1 epochs"
    )
    assert any(text.startswith(expected) for text in texts) == warned

"""The schedule that finds its epochs, driven by accuracies that are made up."""

import warnings

import keras
import numpy as np
import pytest
import small
from small import assert_same
from small import data
from small import StopAfter

import keras_wake as kw

KEY = "val_teacher_robust_accuracy"
eagerly = pytest.mark.usefixtures("eagerly")


def wake(**settings):
    schedule = kw.schedules.AdaptiveRamp(**settings)
    return small.wake(optimizer=keras.optimizers.SGD(0.2), schedule=schedule)


class Pretend(keras.callbacks.Callback):
    """Puts made-up accuracies into the logs, and copies the teachers."""

    def __init__(self, accuracies):
        super().__init__()
        self.accuracies = accuracies
        self.teachers = {}

    def on_epoch_end(self, epoch, logs=None):
        self.model.sync_variables()
        self.teachers[epoch + 1] = self.model.teacher.get_weights()
        del logs[KEY]
        if self.accuracies[epoch] is not None:
            logs[KEY] = self.accuracies[epoch]


def fit(model, accuracies, teacher, *callbacks, epochs=None, first=0):
    """What `Pretend` has copied, and λ_t of each epoch."""
    pretend, weights = Pretend(accuracies), []
    # After the teacher callback, which sets it.
    after = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: weights.append(float(model.kd_weight))
    )
    small.fit(
        *(model, pretend, teacher, after, *callbacks),
        count=16,
        batch_size=8,
        epochs=epochs or len(accuracies),
        initial_epoch=first,
        validation_data=data(8),
    )
    return pretend, weights


def test_freezes_the_best_teacher_and_begins_the_ramp():
    model = wake(patience=2, length=2, peak=0.8, final=0.9)
    teacher = kw.EMATeacher(decay=0.5)
    # The third epoch is best; a tie is no improvement.
    accuracies = [0.1, 0.3, 0.4, 0.4, 0.2, 0.9, 0.9, 0.9]
    seen, weights = fit(model, accuracies, teacher)
    assert teacher.ramp.get_config() == {
        "start_epoch": 5,
        "end_epoch": 7,
        "peak": 0.8,
        "final": 0.9,
    }
    expected = [0, 0, 0, 0, 0, 0.4, 0.9, 0.9]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    # It went on until the fifth epoch, and is that of the third since.
    assert np.abs(seen.teachers[5][0] - seen.teachers[3][0]).max() > 1e-4
    for epoch in (6, 7, 8):
        assert_same(seen.teachers[epoch], seen.teachers[3])
    assert_same(model.robust_classifier.get_weights(), seen.teachers[3])


@eagerly
def test_epochs_without_validation_do_not_count():
    teacher = kw.EMATeacher(decay=0.5)
    accuracies = [0.3, None, None, 0.2, None, 0.1]
    _, weights = fit(wake(patience=1, length=1), accuracies, teacher)
    assert teacher.ramp.start_epoch == 4
    assert weights == [0, 0, 0, 0, 1, 1]


@eagerly
def test_latest_start_ends_the_search():
    model = wake(patience=5, length=1, latest_start=3)
    teacher = kw.EMATeacher(decay=0.5)
    seen, weights = fit(model, [0.1, 0.2, 0.3, 0.4, 0.5], teacher)
    assert weights == [0, 0, 0, 1, 1]
    assert_same(seen.teachers[5], seen.teachers[3])


NEVER = (
    r"ended before distillation began: AdaptiveRamp\(patience=.*best epoch\. "
    "Train for more epochs, lower `patience`, or set `latest_start`"
)
# For the tests that are about something else.
may_never_begin = pytest.mark.filterwarnings(
    "ignore:.*ended before distillation began"
)


@eagerly
@pytest.mark.parametrize(
    ("patience", "accuracies", "stopped", "best"),
    [
        # A teacher that rises to the end is never frozen.
        (2, [0.1, 0.2, 0.3, 0.4], None, 4),
        (3, [0.1, 0.4, 0.3, 0.2], None, 2),
        (3, [0.1, 0.4, 0.3, 0.2, 0.5], 4, 2),
        # The ramp is found in the last epoch.
        (1, [0.1, 0.4, 0.3], None, 2),
    ],
)
def test_best_teacher_is_put_back_where_the_ramp_never_began(
    patience, accuracies, stopped, best
):
    model, teacher = wake(patience=patience), kw.EMATeacher(decay=0.5)
    last = stopped or len(accuracies)
    stop = StopAfter(last - 1) if stopped else keras.callbacks.Callback()
    with pytest.warns(UserWarning, match=NEVER):
        seen, weights = fit(model, accuracies, teacher, stop)
    assert weights == [0.0] * last
    assert teacher.ramp is None or patience == 1
    if best < last:
        moved = seen.teachers[last][0] - seen.teachers[best][0]
        assert np.abs(moved).max() > 1e-4
    assert_same(model.robust_classifier.get_weights(), seen.teachers[best])


@eagerly
@may_never_begin
def test_a_second_fit_keeps_the_ramp_and_the_frozen_teacher():
    accuracies = [0.1, 0.4, 0.3, 0.3, 0.2, 0.9, 0.9]
    model = wake(patience=2, length=4)
    teacher = kw.EMATeacher(decay=0.5)
    seen, weights = fit(model, accuracies, teacher, epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(schedule|distillation)")
        _, others = fit(model, accuracies, teacher, first=5)
    assert weights + others == [0, 0, 0, 0, 0.25, 0.5, 0.75]
    assert teacher.ramp.start_epoch == 4
    assert_same(model.robust_classifier.get_weights(), seen.teachers[2])
    # From the first epoch on, and with another callback, the search is new.
    with pytest.warns(UserWarning, match="starts again at epoch 1"):
        fit(model, accuracies, teacher, epochs=2)
    assert teacher.ramp is None


@eagerly
def test_a_second_fit_goes_on_with_the_search():
    accuracies = [0.1, 0.4, 0.3, 0.3, 0.2, 0.1]
    model = wake(patience=3, length=1)
    teacher = kw.EMATeacher(decay=0.5)
    with pytest.warns(UserWarning, match=NEVER):
        seen, _ = fit(model, accuracies, teacher, epochs=4)
    _, weights = fit(model, accuracies, teacher, first=4)
    assert teacher.ramp.start_epoch == 5 and weights == [0, 1]
    assert_same(model.robust_classifier.get_weights(), seen.teachers[2])
    # With another model it begins anew.
    fit(wake(patience=2), [0.3, 0.2, 0.1, 0.1], teacher)
    assert teacher.ramp.start_epoch == 3


@eagerly
@may_never_begin
def test_another_callback_thaws_the_teacher_with_a_warning():
    accuracies = [0.4, 0.3, 0.3, 0.3]
    model = wake(patience=1, length=1)
    fit(model, accuracies, kw.EMATeacher(decay=0.5), epochs=3)
    with pytest.warns(UserWarning, match="with the same `EMATeacher`"):
        fit(model, accuracies, kw.EMATeacher(decay=0.5), first=3)


@eagerly
@may_never_begin
def test_a_run_that_was_broken_off_goes_on(tmp_path):
    accuracies = [0.1, 0.4, 0.3, 0.3, 0.2, 0.9, 0.9]
    whole = wake(patience=3, length=2)
    fit(whole, accuracies, kw.EMATeacher(decay=0.5))
    for epochs in (4, 7):
        model, teacher = wake(patience=3, length=2), kw.EMATeacher(decay=0.5)
        backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
        fit(model, accuracies, teacher, backup, epochs=epochs)
    assert teacher.ramp.start_epoch == 5
    assert_same(model.get_weights(), whole.get_weights())


def test_needs_validation_images():
    with pytest.raises(ValueError, match=r"`fit` has none\. Pass `validation"):
        small.fit(wake(), kw.EMATeacher())


def test_repr_and_file_keep_the_settings(tmp_path):
    model = wake(patience=2, length=6, latest_start=9)
    model.save(tmp_path / "wake.keras")
    loaded = keras.models.load_model(tmp_path / "wake.keras")
    assert loaded.schedule.get_config() == model.schedule.get_config()
    assert repr(kw.schedules.AdaptiveRamp(2, 5, 0.5)) == (
        "AdaptiveRamp(patience=2, length=5, peak=0.5, final=1.0, "
        "latest_start=None)"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("patience", 0), ("length", 0), ("peak", 1.2), ("latest_start", 0)],
)
def test_refuses_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        kw.schedules.AdaptiveRamp(**{name: value})

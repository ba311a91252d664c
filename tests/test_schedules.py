"""The ramp of the distillation weight, epoch by epoch."""

import keras
import numpy as np
import pytest

from keras_wake.schedules import DistillationRamp


def test_is_zero_then_rises_then_is_one():
    ramp = DistillationRamp(start_epoch=100, end_epoch=110)
    # t_s, t_s + 1, the middle, t_e − 1, t_e; epochs are counted from 1.
    epochs = [1, 99, 100, 101, 105, 109, 110, 111, 200]
    expected = [0, 0, 0, 0.1, 0.5, 0.9, 1, 1, 1]
    # Exact up to the last bit of a division in float64.
    np.testing.assert_allclose(
        [ramp(t) for t in epochs], expected, rtol=0, atol=1e-15
    )


def test_peak_and_final_are_its_two_heights():
    ramp = DistillationRamp(2, 6, peak=0.8, final=0.5)
    np.testing.assert_allclose(
        [ramp(t) for t in range(1, 8)],
        [0, 0, 0.2, 0.4, 0.6, 0.5, 0.5],
        rtol=0,
        atol=1e-15,
    )


def test_neighbouring_epochs_leave_no_ramp():
    ramp = DistillationRamp(0, 1)
    assert [ramp(t) for t in (0, 1, 2)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("epochs", "start", "end"),
    [
        (200, 100, 110),
        (60, 30, 33),
        (100, 50, 55),
        (20, 10, 11),
        # 55 % would not come after half.
        (2, 1, 2),
        (3, 1, 2),
        (5, 2, 3),
    ],
)
def test_default_of_a_run(epochs, start, end):
    ramp = DistillationRamp.for_epochs(epochs, peak=0.5, final=0.9)
    assert (ramp.start_epoch, ramp.end_epoch) == (start, end)
    assert (ramp.peak, ramp.final) == (0.5, 0.9)
    assert DistillationRamp.for_epochs(epochs).peak == 1.0


def test_default_ends_within_the_run():
    for epochs in range(2, 300):
        ramp = DistillationRamp.for_epochs(epochs)
        assert 1 <= ramp.start_epoch < ramp.end_epoch <= epochs, epochs


def test_config_and_keras_serialisation():
    ramp = DistillationRamp(3, 7, peak=0.6, final=0.4)
    config = {"start_epoch": 3, "end_epoch": 7, "peak": 0.6, "final": 0.4}
    assert ramp.get_config() == config
    assert DistillationRamp.from_config(config).get_config() == config
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ramp)
    )
    assert isinstance(loaded, DistillationRamp)
    assert loaded.get_config() == config


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (5, 5),
            ValueError,
            "`start_epoch` must come before `end_epoch`. Received: "
            "start_epoch=5, end_epoch=5",
        ),
        ((-1, 5), ValueError, "`start_epoch` must be at least 0"),
        ((0.5, 5), TypeError, r"`start_epoch` must be an integer.*0\.5"),
        ((1, 5, -0.1), ValueError, r"`peak` must be between 0 and 1.*-0\.1"),
        ((1, 5, 1, 1.5), ValueError, r"`final` must be between 0 and 1.*1\.5"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        DistillationRamp(*arguments)


@pytest.mark.parametrize(
    ("epochs", "error", "message"),
    [
        (1, ValueError, "`epochs` must be at least 2.*epochs=1"),
        (10.0, TypeError, "`epochs` must be an integer"),
    ],
)
def test_refuses_a_bad_number_of_epochs(epochs, error, message):
    with pytest.raises(error, match=message):
        DistillationRamp.for_epochs(epochs)

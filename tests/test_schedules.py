"""The ramp of the distillation weight, epoch by epoch."""

import keras
import numpy as np
import pytest

from keras_wake.schedules import DistillationRamp


@pytest.mark.parametrize(
    ("arguments", "epochs", "expected"),
    [
        # t_s, t_s + 1, the middle, t_e − 1, t_e; epochs are counted from 1.
        (
            {"start_epoch": 100, "end_epoch": 110},
            [1, 99, 100, 101, 105, 109, 110, 111, 200],
            [0, 0, 0, 0.1, 0.5, 0.9, 1, 1, 1],
        ),
        (
            {"start_epoch": 2, "end_epoch": 6, "peak": 0.8, "final": 0.5},
            [1, 2, 3, 4, 5, 6, 7],
            [0, 0, 0.2, 0.4, 0.6, 0.5, 0.5],
        ),
        # Neighbouring epochs leave no ramp.
        ({"start_epoch": 0, "end_epoch": 1}, [0, 1, 2], [0, 1, 1]),
    ],
)
def test_is_zero_then_rises_to_its_peak_then_is_final(
    arguments, epochs, expected
):
    ramp = DistillationRamp(**arguments)
    # Exact up to the last bit of a division in float64.
    np.testing.assert_allclose(
        [ramp(t) for t in epochs], expected, rtol=0, atol=1e-15
    )


def test_default_of_a_run():
    for epochs, expected in {
        200: (100, 110),
        60: (30, 33),
        100: (50, 55),
        20: (10, 11),
        # 55 % would not come after half.
        2: (1, 2),
        3: (1, 2),
        5: (2, 3),
    }.items():
        ramp = DistillationRamp.for_epochs(epochs, peak=0.5, final=0.9)
        assert (ramp.start_epoch, ramp.end_epoch) == expected, epochs
        assert (ramp.peak, ramp.final) == (0.5, 0.9)
    for epochs in range(2, 300):
        ramp = DistillationRamp.for_epochs(epochs)
        assert 1 <= ramp.start_epoch < ramp.end_epoch <= epochs, epochs
        assert ramp.peak == 1.0


def test_config_and_keras_serialisation():
    config = {"start_epoch": 3, "end_epoch": 7, "peak": 0.6, "final": 0.4}
    ramp = DistillationRamp(3, 7, peak=0.6, final=0.4)
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ramp)
    )
    assert isinstance(loaded, DistillationRamp)
    for found in ramp, loaded, DistillationRamp.from_config(config):
        assert found.get_config() == config


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


def test_refuses_a_bad_number_of_epochs():
    message = "`epochs` must be at least 2.*epochs=1"
    with pytest.raises(ValueError, match=message):
        DistillationRamp.for_epochs(1)
    with pytest.raises(TypeError, match="`epochs` must be an integer"):
        DistillationRamp.for_epochs(10.0)

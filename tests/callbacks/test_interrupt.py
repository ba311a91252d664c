"""Ctrl-C ends `fit` and leaves a model that is whole."""

import os
import signal

import keras
import numpy as np
import pytest

import keras_wake as kw

SHAPE = (4, 4, 1)


class InterruptedBatches(keras.utils.PyDataset):
    """Presses Ctrl-C while a step asks for a batch."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        x = self.rng.random((5, *SHAPE), np.float32)
        return x, np.arange(5, dtype="int32") % 3


def wake():
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    attack = kw.attacks.FGSM(epsilon=0.1)
    model = kw.WakeModel(classifier, attack, eval_attack=attack)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return model


@pytest.mark.parametrize("at", [1, 4])
def test_model_is_whole_after_ctrl_c(at):
    model = wake()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(InterruptedBatches(at), epochs=2, verbose=0)
    assert signal.getsignal(signal.SIGINT) is handler
    for weights in model.get_weights():
        assert np.isfinite(weights).all()
    # It can be used, and trained further, from where it was.
    steps = int(keras.ops.convert_to_numpy(model.train_steps))
    assert steps <= 6
    model.fit(InterruptedBatches(None), epochs=1, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == steps + 6


def test_model_is_whole_after_ctrl_c_in_predict_and_evaluate():
    model = wake()
    model.fit(InterruptedBatches(None), epochs=1, verbose=0)
    before = model.get_weights()
    for call in (model.predict, model.evaluate):
        with pytest.raises(KeyboardInterrupt):
            call(InterruptedBatches(4), verbose=0)
        for value, other in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, other)
    assert model.predict(InterruptedBatches(None), verbose=0).shape == (30, 3)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="a step of JAX frees its input"
)
def test_ctrl_c_in_the_moment_after_a_step_was_started(monkeypatch):
    make, signals = keras.Model.make_train_function, []

    def make_signalled(model, force=False):
        before = model.train_function
        make(model, force)
        function = model.train_function
        if function is before:
            return

        def signalled(state, iterator):
            result = function(state, iterator)
            if not signals:
                signals.append(os.kill(os.getpid(), signal.SIGINT))
            return result

        model.train_function = signalled

    monkeypatch.setattr(keras.Model, "make_train_function", make_signalled)
    model = wake()
    with pytest.raises(KeyboardInterrupt):
        model.fit(InterruptedBatches(None), epochs=1, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == 1
    for weights in model.get_weights():
        assert np.isfinite(weights).all()

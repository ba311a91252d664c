"""Ctrl-C ends `fit` and leaves a model that is whole."""

import os
import signal

import keras
import numpy as np
import pytest
from dense_run import data
from dense_run import wake
from small import assert_same


@pytest.fixture(autouse=True)
def handler():
    """Python's handler, which a job in the background does not start with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CtrlC(keras.callbacks.Callback):
    """Presses Ctrl-C before a batch.

    In a callback, and so in the main thread: signalled from a thread that
    loads data, the interrupt comes up wherever the main thread happens to be,
    which may be a destructor, where Python can only drop it.
    """

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_batch(self, batch, logs=None):
        if batch == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    on_train_batch_begin = on_test_batch_begin = on_batch
    on_predict_batch_begin = on_batch


def batches():
    x, y = data(count=30)
    return {"x": x, "y": y, "batch_size": 5, "verbose": 0}


def assert_finite(model):
    for weights in model.get_weights():
        assert np.isfinite(weights).all()


@pytest.mark.parametrize("at", [1, 4])
def test_model_is_whole_after_ctrl_c(at):
    model = wake()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(**batches(), epochs=2, callbacks=[CtrlC(at)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert_finite(model)
    # It can be used, and trained further, from where it was.
    steps = int(keras.ops.convert_to_numpy(model.train_steps))
    assert steps <= 6
    model.fit(**batches())
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == steps + 6


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_model_is_whole_after_ctrl_c_in_predict_and_evaluate(name):
    model = wake()
    model.fit(**batches())
    before = model.get_weights()
    data = batches()
    if name == "predict":
        del data["y"]
    with pytest.raises(KeyboardInterrupt):
        getattr(model, name)(**data, callbacks=[CtrlC(4)])
    assert_same(model.get_weights(), before)
    assert model.predict(data["x"], verbose=0).shape == (30, 3)


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
        model.fit(**batches())
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == 1
    assert_finite(model)

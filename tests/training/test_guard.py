"""Faults are counted on the device, and the host reads them now and then."""

import threading

import keras
import numpy as np
import pytest
from small import data
from small import network
from small import wake

import keras_wake as kw

BACKEND = keras.backend.backend()
BATCHES, BATCH = 100, 8


@pytest.fixture
def reads(monkeypatch):
    """Counts how often a value is brought to the host."""
    # Keras reads its logs there.
    from keras.src import backend

    read, found = backend.convert_to_numpy, []

    def counting(value):
        found.append(value)
        return read(value)

    monkeypatch.setattr(backend, "convert_to_numpy", counting)
    return found


def run(model, method="fit", count=BATCHES * BATCH, images=None, **arguments):
    x, y = data(count)
    x = x if images is None else images
    arguments = {"verbose": 0, "batch_size": BATCH, **arguments}
    return getattr(model, method)(x, y, **arguments)


class CountBatches(keras.callbacks.Callback):
    """Counts the batches that begin. It does not make Keras wait for them."""

    batches = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.batches += 1

    def on_test_batch_begin(self, batch, logs=None):
        self.batches += 1


def spoilt(count, *places):
    """Images, of which those at some places are NaN."""
    x, _ = data(count)
    x[list(places)] = np.nan
    return x


def plain():
    """A model of Keras with as many logs as a `WakeModel` has."""
    model = network()
    model.compile(
        "sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            "accuracy",
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
        ],
    )
    return model


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_steps_do_not_wait_for_the_host(reads, method):
    """At most 5 values beyond those that Keras reads for its logs."""
    found = []
    for model in (plain(), wake()):
        run(model, method)
        reads.clear()
        run(model, method)
        found.append(len(reads))
    expected, ours = found
    assert expected >= 3 * BATCHES
    assert ours <= expected + 5


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="Keras runs callbacks in order there"
)
def test_keras_runs_callbacks_beside_the_steps():
    class Threads(keras.callbacks.Callback):
        async_safe = True
        found = frozenset()

        def on_train_batch_end(self, batch, logs=None):
            self.found |= {threading.current_thread()}

        def on_test_batch_end(self, batch, logs=None):
            self.found |= {threading.current_thread()}

    threads = Threads()
    callbacks = [
        kw.EMATeacher(),
        kw.callbacks.CrossClassAttribution(),
        kw.callbacks.CatastrophicOverfitMonitor(samples=8),
        threads,
    ]
    run(wake(), count=24, callbacks=callbacks, validation_data=data(8))
    assert threads.found
    assert threading.main_thread() not in threads.found


def test_first_fault_is_named_although_it_is_read_later():
    model, counter = wake(check_every=3), CountBatches()
    before = model.get_weights()
    # Batch 5, and others after it.
    x = spoilt(10 * BATCH, 4 * BATCH, 4 * BATCH + 1, 5 * BATCH, 8 * BATCH)
    with pytest.raises(
        ValueError,
        match=r"^2 image\(s\) of epoch 1, batch 5 contain NaN.* back to what "
        "they were when epoch 1 began",
    ):
        run(
            model,
            count=len(x),
            images=x,
            callbacks=[counter],
            shuffle=False,
        )
    # Read after batch 1, 4 and 7.
    assert counter.batches == 7
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_last_steps_of_an_epoch_are_checked():
    x = spoilt(10 * BATCH, -1)
    with pytest.raises(ValueError, match="of epoch 1, batch 10 contain NaN"):
        run(wake(), count=len(x), images=x, shuffle=False, epochs=2)
    with pytest.raises(ValueError, match="of evaluation batch 10 contain NaN"):
        run(wake(), "evaluate", count=len(x), images=x)


def test_an_evaluation_within_an_epoch_keeps_the_counts_of_training():
    model = wake(check_every=100)

    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 6:
                model.evaluate(*data(4), verbose=0)
                model.test_on_batch(*data(4))

    x = spoilt(10 * BATCH, 8 * BATCH)
    with pytest.raises(ValueError, match="of epoch 1, batch 9 contain NaN"):
        run(
            model,
            count=len(x),
            images=x,
            shuffle=False,
            callbacks=[Evaluate()],
        )


def test_a_model_is_checked_before_it_is_saved_within_an_epoch(tmp_path):
    model = wake()

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 6:
                model.save(tmp_path / "model.keras")

    x = spoilt(10 * BATCH, 4 * BATCH)
    with pytest.raises(ValueError, match="of epoch 1, batch 5 contain NaN"):
        run(model, count=len(x), images=x, shuffle=False, callbacks=[Save()])
    assert not list(tmp_path.iterdir())


def test_without_a_copy_the_weights_stay_and_the_message_says_so():
    model = wake(keep_recovery_copy=False)
    model.optimizer.learning_rate = 1e38
    with pytest.raises(FloatingPointError, match="`keep_recovery_copy=False`"):
        run(model, count=3 * BATCH)
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    assert not np.abs(weights).max() < 1e30


def test_config_has_what_the_guard_was_given():
    model = wake(check_every=7, keep_recovery_copy=False)
    again = kw.WakeModel.from_config(model.get_config())
    for made in (model, again):
        assert made.get_config()["check_every"] == 7
        assert made.get_config()["keep_recovery_copy"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("check_every", 0), ("check_every", 1.5), ("keep_recovery_copy", "no")],
)
def test_refuses_what_makes_no_sense(name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
        wake(**{name: value})

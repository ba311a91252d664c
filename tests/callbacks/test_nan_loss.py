"""A loss that is not finite ends `fit`, and the last good weights are back."""

import keras
import numpy as np
import pytest
from dense_run import wake
from small import assert_same
from small import fit as small_fit
from small import SHAPE

import keras_wake as kw
from keras_wake.checkpoint import archive
from keras_wake.checkpoint import snapshot

STEPS = 3
eagerly = pytest.mark.usefixtures("eagerly")


def fit(model, *callbacks, **kwargs):
    return small_fit(model, *callbacks, count=21, batch_size=7, **kwargs)


class Explode(keras.callbacks.Callback):
    """Takes a far too high learning rate in an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.optimizer.learning_rate.assign(1e38)

    def on_epoch_end(self, epoch, logs=None):
        self.good = snapshot.take(self.model)


def test_stops_in_the_step_and_goes_back_an_epoch(tmp_path):
    model, explode = wake(), Explode(2)
    backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
    with pytest.raises(FloatingPointError) as stop:
        fit(model, explode, backup, epochs=5)
    message = str(stop.value)
    assert "The loss became NaN or infinite in epoch 3, batch 2." in message
    assert "back to what they were when epoch 3 began." in message
    # The rate is again what it was then.
    assert "a learning rate that is too high (it is 0.3;" in message
    assert_same(snapshot.take(model), explode.good)
    assert all(np.isfinite(value).all() for value in explode.good)
    state, values = archive.read(tmp_path / "backup.npz")
    assert state["epoch"] == 2
    assert_same(values, explode.good)
    # The next call starts with a clean slate.
    model.optimizer.learning_rate.assign(0.1)
    assert fit(model, epochs=1).epoch == [0]


@eagerly
def test_first_epoch_goes_back_to_the_start():
    model = wake()
    start = [value.copy() for value in model.get_weights()]
    with pytest.raises(FloatingPointError, match="were when epoch 1 began"):
        fit(model, Explode(0), initial_epoch=0)
    assert_same(model.get_weights(), start)


def test_update_that_ruins_the_weights_of_a_finite_loss(tmp_path):
    class Ruin(keras.callbacks.Callback):
        """Lets the last update of the second epoch make NaN of weights."""

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, STEPS - 1):
                self.model.sync_variables()
                self.model.optimizer.learning_rate.assign(np.nan)

    model = wake()
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.weights.h5",
        save_weights_only=True,
        save_freq=1,
    )
    with pytest.raises(
        FloatingPointError,
        match=f"loss is finite.* infinite in epoch 2, batch {STEPS}.",
    ):
        fit(model, Ruin(), checkpoint, epochs=3)
    # No file of the ruined weights was written.
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = ["1-1", "1-2", "1-3", "2-1", "2-2"]
    assert names == [f"{step}.weights.h5" for step in steps]
    good = wake()
    good.load_weights(tmp_path / "1-3.weights.h5")
    assert_same(model.get_weights(), good.get_weights())


@eagerly
def test_weights_that_were_bad_before_are_named():
    model = wake()
    model.classifier.layers[-1].bias.assign([1, 2, np.nan])
    with pytest.raises(FloatingPointError, match="Even then weights were not"):
        fit(model)


@eagerly
def test_an_image_with_nan_is_no_nan_loss():
    model = wake()
    x = np.full((7, *SHAPE), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"7 image\(s\) of epoch 1, batch 1"):
        model.fit(x, np.zeros(7, "int32"), verbose=0)


def test_gradients_that_overflow_are_skipped_by_loss_scaling():
    """In half precision that is as it should be: the loss stays finite."""
    model = wake(policy="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**40
    )
    model.compile(optimizer)
    history = fit(model, epochs=2)
    assert np.isfinite(history.history["loss"]).all()
    assert float(optimizer.dynamic_scale) < 2.0**40
    assert int(optimizer.inner_optimizer.iterations) < 2 * STEPS

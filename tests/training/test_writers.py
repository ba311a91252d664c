"""Logs and checkpoints that cannot be written do not end a run."""

import csv
import errno
import os

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake.checkpoint import archive

SHAPE = (4, 4, 1)


def fit(*callbacks, epochs=4):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.random((12, *SHAPE)).astype("float32")
    y = np.arange(12, dtype="int32") % 3
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    attack = kw.attacks.FGSM(epsilon=0.05)
    model = kw.WakeModel(classifier, attack, eval_attack=attack)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(
        x, y, epochs=epochs, batch_size=6, verbose=0, callbacks=list(callbacks)
    )
    return model


def failing_in(epoch, method):
    """The method of a callback, which finds the disk full in one epoch."""

    def fails(callback, number, logs=None):
        if number == epoch:
            raise OSError(errno.ENOSPC, "No space left on device")
        return method(callback, number, logs)

    return fails


def test_full_disk_costs_a_row_of_the_log_and_nothing_else(
    tmp_path, monkeypatch
):
    logger = keras.callbacks.CSVLogger
    fails = failing_in(1, logger.on_epoch_end)
    monkeypatch.setattr(logger, "on_epoch_end", fails)
    log = tmp_path / "log.csv"
    with pytest.warns(UserWarning, match="`CSVLogger` could not write.*space"):
        model = fit(
            logger(log),
            kw.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        )
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == 8
    with open(log) as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "2", "3"]
    state, _ = archive.read(tmp_path / "backup" / "backup.npz")
    assert state["epoch"] == 4
    assert "CSVLogger" in [name for name, _ in state["callbacks"]]


def test_checkpoint_that_failed_is_written_the_next_time(tmp_path, monkeypatch):
    saved = []
    save = keras.Model.save

    def full_once(model, path, *args, **kwargs):
        saved.append(os.path.basename(path))
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(model, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save", full_once)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras",
        monitor="quality",
        mode="max",
        save_best_only=True,
    )
    # As good in the third epoch as in the second, whose file is missing.
    quality = [1.0, 2.0, 2.0, 0.0]
    values = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(quality=quality[epoch])
    )
    with pytest.warns(UserWarning, match="`ModelCheckpoint` could not write"):
        fit(values, checkpoint)
    assert len(saved) == 3
    model = keras.models.load_model(tmp_path / "best.keras")
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == 6


def test_path_that_is_wrong_from_the_start_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        fit(keras.callbacks.CSVLogger(tmp_path / "nowhere" / "log.csv"))

"""Logs and checkpoints that cannot be written do not end a run."""

import csv
import errno
import os

import keras
import pytest
import small

import keras_wake as kw
from keras_wake.checkpoint import archive

FULL = OSError(errno.ENOSPC, "No space left on device")


def fit(*callbacks):
    model = small.wake()
    small.fit(model, *callbacks, epochs=4, batch_size=6)
    return model


def test_full_disk_costs_a_row_of_the_log_and_nothing_else(
    tmp_path, monkeypatch
):
    logger = keras.callbacks.CSVLogger
    method = logger.on_epoch_end

    def full_in_epoch_1(callback, epoch, logs=None):
        if epoch == 1:
            raise FULL
        return method(callback, epoch, logs)

    monkeypatch.setattr(logger, "on_epoch_end", full_in_epoch_1)
    log = tmp_path / "log.csv"
    backup = kw.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.warns(UserWarning, match="`CSVLogger` could not write.*space"):
        model = fit(logger(log), backup)
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
            raise FULL
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

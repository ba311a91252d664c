"""Keras's own callbacks see the keys of keras-wake, and work on them."""

import csv

import keras
import numpy as np
import pytest
from dense_run import data
from dense_run import wake

import keras_wake as kw

EPOCHS = 4


class Scores(keras.callbacks.Callback):
    """Overwrites what a validation found, so that the best is known."""

    def __init__(self, **scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        for key, values in self.scores.items():
            assert key in logs
            logs[key] = values[epoch]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run with every callback that only writes."""
    folder = tmp_path_factory.mktemp("run")
    model = wake()
    attribution = kw.callbacks.CrossClassAttribution()
    history = model.fit(
        *data(),
        batch_size=7,
        epochs=EPOCHS,
        validation_data=data(1),
        verbose=0,
        callbacks=[
            kw.callbacks.EMATeacher(0.5),
            attribution,
            Scores(
                val_robust_accuracy=[0.3, 0.5, 0.4, 0.2],
                val_teacher_robust_accuracy=[0.1, 0.2, 0.3, 0.2],
            ),
            # Without `mode`: that more of it is better is known.
            keras.callbacks.EarlyStopping("val_cas", patience=EPOCHS),
            keras.callbacks.ModelCheckpoint(
                folder / "best_{epoch}.keras",
                monitor="val_robust_accuracy",
                save_best_only=True,
            ),
            keras.callbacks.ModelCheckpoint(
                folder / "teacher_{epoch}.weights.h5",
                monitor="val_teacher_robust_accuracy",
                save_best_only=True,
                save_weights_only=True,
            ),
            keras.callbacks.CSVLogger(folder / "history.csv"),
            keras.callbacks.TensorBoard(folder / "board"),
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_robust_accuracy", factor=0.5, patience=2
            ),
        ],
    ).history
    return model, history, folder


KEYS = {
    "loss",
    "robust_accuracy",
    "kd_weight",
    "val_loss",
    "val_accuracy",
    "val_robust_accuracy",
    "val_teacher_accuracy",
    "val_teacher_robust_accuracy",
    "val_cas",
    "val_teacher_cas",
}


def test_model_checkpoint_keeps_the_highest_accuracy(run):
    _, _, folder = run
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {name for name in names if name.startswith("best")} == {
        "best_1.keras",
        "best_2.keras",
    }
    assert {name for name in names if name.startswith("teacher")} == {
        f"teacher_{epoch}.weights.h5" for epoch in (1, 2, 3)
    }
    best = keras.saving.load_model(folder / "best_2.keras")
    assert int(best.teacher_updates) == 6


def test_csv_logger_has_every_key_and_value(run):
    _, history, folder = run
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    assert set(rows[0]) == {*KEYS, "epoch", "learning_rate"} - (
        # Keras adds the rate after it has written the row.
        {"learning_rate"} - set(rows[0])
    )
    for epoch, row in enumerate(rows):
        for key in KEYS:
            assert float(row[key]) == pytest.approx(history[key][epoch])


def test_tensorboard_writes_training_and_validation(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    _, _, folder = run
    tags = {}
    for part in ("train", "validation"):
        events = event_accumulator.EventAccumulator(
            str(folder / "board" / part)
        )
        events.Reload()
        tags[part] = set(events.Tags()["tensors"])
    assert {"epoch_loss", "epoch_robust_accuracy", "epoch_kd_weight"} <= tags[
        "train"
    ]
    expected = {
        f"epoch_{key.removeprefix('val_')}" for key in KEYS if "val_" in key
    }
    assert expected <= tags["validation"]


def test_reduce_lr_on_plateau_counts_lower_accuracy_as_none_better(run):
    _, history, _ = run
    # Best in the second epoch; two without improvement end with the fourth.
    assert float(run[0].optimizer.learning_rate) == pytest.approx(0.15)
    assert set(history) - {"learning_rate"} == KEYS


@pytest.mark.usefixtures("eagerly")
def test_early_stopping_follows_robust_accuracy():
    model = wake()
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_robust_accuracy", patience=2, restore_best_weights=True
    )
    weights = []
    history = model.fit(
        *data(),
        epochs=10,
        validation_data=data(1),
        verbose=0,
        callbacks=[
            Scores(val_robust_accuracy=[0.3, 0.6, 0.5, 0.5, 0.9]),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: weights.append(
                    model.classifier.get_weights()
                )
            ),
            stopping,
        ],
    )
    assert history.epoch == [0, 1, 2, 3]
    assert stopping.best_epoch == 1
    for value, best in zip(
        model.classifier.get_weights(), weights[1], strict=True
    ):
        np.testing.assert_array_equal(value, best)

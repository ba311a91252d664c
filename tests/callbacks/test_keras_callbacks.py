"""Keras's own callbacks see the keys of keras-wake, and work on them."""

import csv

import keras
import pytest
from dense_run import data
from dense_run import fit
from dense_run import wake
from small import assert_same

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
    history = fit(
        model,
        kw.callbacks.EMATeacher(0.5),
        kw.callbacks.CrossClassAttribution(),
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
        epochs=EPOCHS,
        batch_size=7,
        validation_data=data(1),
    )
    return model, history, folder


KEYS = {
    *("loss", "robust_accuracy", "kd_weight"),
    *("val_loss", "val_accuracy", "val_robust_accuracy", "val_cas"),
    *("val_teacher_accuracy", "val_teacher_robust_accuracy"),
    "val_teacher_cas",
}


def test_model_checkpoint_keeps_the_highest_accuracy(run):
    _, _, folder = run
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("best_1.keras", "best_2.keras", "history.csv"),
        *(f"teacher_{epoch}.weights.h5" for epoch in (1, 2, 3)),
    }
    best = keras.saving.load_model(folder / "best_2.keras")
    assert int(best.teacher_updates) == 6


def test_csv_logger_has_every_key_and_value(run):
    _, history, folder = run
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    # Keras may add the rate after it has written the row.
    assert set(rows[0]) - {"learning_rate"} == {*KEYS, "epoch"}
    for epoch, row in enumerate(rows):
        for key in KEYS:
            assert float(row[key]) == pytest.approx(history[key][epoch])


def test_tensorboard_writes_training_and_validation(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    _, _, folder = run
    for part, prefix in (("train", ""), ("validation", "val_")):
        path = str(folder / "board" / part)
        events = event_accumulator.EventAccumulator(path)
        events.Reload()
        expected = {
            f"epoch_{key.removeprefix(prefix)}"
            for key in KEYS
            if key.startswith("val_") == bool(prefix)
        }
        assert expected <= set(events.Tags()["tensors"])


def test_reduce_lr_on_plateau_counts_lower_accuracy_as_none_better(run):
    model, history, _ = run
    # Best in the second epoch; two without improvement end with the fourth.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.15)
    assert set(history) - {"learning_rate"} == KEYS


@pytest.mark.usefixtures("eagerly")
def test_early_stopping_follows_robust_accuracy():
    model = wake()
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_robust_accuracy", patience=2, restore_best_weights=True
    )
    weights = []
    fit(
        model,
        Scores(val_robust_accuracy=[0.3, 0.6, 0.5, 0.5, 0.9]),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: weights.append(
                model.classifier.get_weights()
            )
        ),
        stopping,
        epochs=10,
        validation_data=data(1),
    )
    assert len(weights) == 4
    assert stopping.best_epoch == 1
    assert_same(model.classifier.get_weights(), weights[1])

"""A small training run that replicas, workers and devices must agree in."""

import contextlib
import os
import pathlib
import signal

import keras
import numpy as np

import keras_wake as kw


def classifier(batch_norm, synchronized, shape=(4, 4, 1), classes=3):
    keras.utils.set_random_seed(1)
    layers = [keras.Input(shape), keras.layers.Conv2D(6, 3)]
    if batch_norm:
        layers.append(
            keras.layers.BatchNormalization(synchronized=synchronized)
        )
    layers += [
        keras.layers.ELU(),
        keras.layers.Flatten(),
        keras.layers.Dense(
            classes, kernel_regularizer=keras.regularizers.L2(1e-2)
        ),
    ]
    return keras.Sequential(layers)


def data(count, one_hot):
    """Three noisy patterns that a few epochs learn, but not at once."""
    rng = np.random.default_rng(0)
    patterns = rng.random((3, 4, 4, 1))
    y = rng.integers(0, 3, count)
    x = 0.6 * patterns[y] + 0.4 * rng.random((count, 4, 4, 1))
    x = x.astype("float32")
    return x, np.eye(3, dtype="float32")[y] if one_hot else y


def numpy_of(weights):
    return [
        np.asarray(keras.ops.convert_to_tensor(w)).tolist() for w in weights
    ]


class DieAt(keras.callbacks.Callback):
    """Ends the process without a word after so many steps of training."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(numpy_of([self.model.train_steps])[0]) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(strategy, count, batch_size, options):
    keras.config.set_dtype_policy(options.get("policy", "float32"))
    digits = {}
    if options.get("pipeline"):
        digits = {"shape": (8, 8, 1), "classes": 10}
    with strategy.scope() if strategy else contextlib.nullcontext():
        student = classifier(
            options.get("batch_norm", False),
            options.get("synchronized", False),
            **digits,
        )
        pgd = kw.attacks.PGD(epsilon=0.03, steps=2, random_start=False)
        model = kw.WakeModel(
            student,
            pgd,
            eval_attack=pgd,
            schedule=kw.schedules.DistillationRamp(1, 3, final=0.9),
        )
        model.compile(
            keras.optimizers.SGD(0.03, momentum=0.9),
            metrics=None if digits else ["accuracy"],
        )
    weighted = options.get("weights", False)
    x, y = data(count, weighted)
    weights = np.linspace(0.2, 2, count) if weighted else None
    if options.get("nan"):
        # The last image: in the share of the second replica.
        x[-1] = np.nan
    validation = x, y
    if digits:
        splits = kw.datasets.load(
            "digits",
            batch_size=batch_size,
            limit=count,
            validation_split=21,
            test_limit=10,
            augment="flip",
        )
        x, y, batch_size = splits.train, None, None
        validation = splits.validation
    attribution = kw.callbacks.CrossClassAttribution()
    callbacks = [kw.callbacks.EMATeacher(decay=0.5), attribution]
    if "folder" in options:
        folder = pathlib.Path(options["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        callbacks += [
            kw.BackupAndRestore(folder / "backup", delete_checkpoint=False),
            keras.callbacks.ModelCheckpoint(
                folder / "best.keras",
                monitor="val_robust_accuracy",
                save_best_only=True,
            ),
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
        ]
    if "die_at" in options:
        callbacks.append(DieAt(options["die_at"]))
    monitor = None
    if options.get("monitor"):
        # Where processes share a batch, each must see the same.
        same = data(16, False)
        monitor = kw.callbacks.CatastrophicOverfitMonitor(
            data=same, action="rollback"
        )
        callbacks += [monitor, kw.CrossClassAttribution(data=same)]
    log = model.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=batch_size,
        shuffle=False,
        epochs=4,
        validation_data=validation,
        verbose=0,
        callbacks=callbacks,
    )
    result = {
        "history": log.history,
        "student": numpy_of(student.weights),
        "teacher": numpy_of(model.teacher.weights),
        "steps": int(numpy_of([model.train_steps])[0]),
        "updates": int(numpy_of([model.teacher_updates])[0]),
        "correlation": attribution.correlation.tolist(),
        "checks": monitor.history if monitor else [],
    }
    if options.get("evaluate"):
        result["evaluated"] = model.evaluate(
            *data(count, weighted),
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )
    return result

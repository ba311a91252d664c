"""A small training run that replicas, workers and devices must agree in."""

import contextlib
import os
import pathlib
import signal

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake import backend


def classifier(
    batch_norm, synchronized, shape=(4, 4, 1), classes=3, dropout=False
):
    keras.utils.set_random_seed(1)
    layers = [keras.Input(shape), keras.layers.Conv2D(6, 3)]
    if batch_norm:
        norm = keras.layers.BatchNormalization(synchronized=synchronized)
        layers.append(norm)
    l2 = keras.regularizers.L2(1e-2)
    if dropout:
        # PyTorch draws for the first from its own generator.
        layers += [keras.layers.Dropout(0.3), keras.layers.Dropout(0.3, seed=3)]
    layers += [
        keras.layers.ELU(),
        keras.layers.Flatten(),
        keras.layers.Dense(classes, kernel_regularizer=l2),
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


def darker_at_the_end(x):
    """Images of which the second half has other statistics."""
    half = len(x) // 2
    return np.concatenate([x[:half], x[half:] / 4])


def numpy_of(weights):
    return [backend.to_numpy(w).tolist() for w in weights]


class DieAt(keras.callbacks.Callback):
    """Ends the process without a word after so many steps of training."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(numpy_of([self.model.train_steps])[0]) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    strategy,
    count,
    batch_size,
    policy="float32",
    pipeline=False,
    batch_norm=False,
    synchronized=False,
    weights=False,
    nan=False,
    folder=None,
    die_at=None,
    monitor=False,
    evaluate=False,
    steps_per_execution=1,
    xla=False,
    attack_training=False,
    accumulate=None,
    dropout=False,
):
    keras.config.set_dtype_policy(policy)
    if xla and strategy:
        # As on a GPU.
        backend.tensorflow.jit_by_default = lambda: True
    digits = {"shape": (8, 8, 1), "classes": 10} if pipeline else {}
    if dropout:
        digits["dropout"] = True
    with strategy.scope() if strategy else contextlib.nullcontext():
        student = classifier(batch_norm, synchronized, **digits)
        pgd = kw.attacks.PGD(epsilon=0.03, steps=2, training=attack_training)
        ramp = kw.schedules.DistillationRamp(1, 3, final=0.9)
        model = kw.WakeModel(student, pgd, eval_attack=pgd, schedule=ramp)
        if xla and strategy:
            with pytest.warns(UserWarning, match="keras#20763"):
                model.compile("sgd", jit_compile=True)
        model.compile(
            keras.optimizers.SGD(
                0.03, momentum=0.9, gradient_accumulation_steps=accumulate
            ),
            metrics=None if pipeline else ["accuracy"],
            steps_per_execution=steps_per_execution,
        )
    if xla and strategy:
        assert model.training_step.jit_attack
        assert not model.jit_compile
    x, y = data(count, weights)
    if nan:
        # The last image: in the share of the second replica.
        x[-1] = np.nan
    data_options = {"validation_data": (x, y), "batch_size": batch_size}
    if weights:
        data_options["sample_weight"] = np.linspace(0.2, 2, count)
    if pipeline:
        splits = kw.datasets.load(
            "digits",
            batch_size=batch_size,
            # Devices have to share the last, smaller batch as well.
            drop_remainder=False,
            limit=count,
            validation_split=21,
            test_limit=10,
            augment="flip",
        )
        x, y = splits.train, None
        data_options = {"validation_data": splits.validation}
    attribution = kw.callbacks.CrossClassAttribution()
    callbacks = [kw.callbacks.EMATeacher(decay=0.5), attribution]
    if folder is not None:
        folder = pathlib.Path(folder)
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
    if die_at is not None:
        callbacks.append(DieAt(die_at))
    watch = None
    if monitor and pipeline:
        # The first images of `fit`.
        watch = kw.CatastrophicOverfitMonitor(samples=25)
        callbacks.append(watch)
    elif monitor:
        # Where processes share a batch, each must see the same.
        same = data(16, False)
        watch = kw.CatastrophicOverfitMonitor(data=same, action="rollback")
        callbacks += [watch, kw.CrossClassAttribution(data=same)]
    fit_options = {"shuffle": False, "epochs": 4, "verbose": 0}
    log = model.fit(x, y, callbacks=callbacks, **data_options, **fit_options)
    evaluated = {}
    if evaluate:
        evaluated = model.evaluate(
            *data(count, weights),
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )
    return {
        "history": log.history,
        "student": numpy_of(student.weights),
        "teacher": numpy_of(model.teacher.weights),
        "steps": int(numpy_of([model.train_steps])[0]),
        "updates": int(numpy_of([model.teacher_updates])[0]),
        "correlation": attribution.correlation.tolist(),
        "checks": watch.history if watch else [],
        "evaluated": evaluated,
    }


def train_with_awp(strategy, reassigns):
    """With a layer that assigns to its own kernel, where it `reassigns`."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 4, 4, 1), np.float32), np.arange(32) % 4
    with strategy.scope() if strategy else contextlib.nullcontext():
        hidden = keras.layers.Dense(8, activation="tanh")
        if reassigns:
            hidden = keras.layers.SpectralNormalization(hidden)
        layers = [keras.layers.Flatten(), hidden, keras.layers.Dense(4)]
        network = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        model = kw.WakeModel(
            network,
            kw.attacks.PGD(epsilon=0.1, steps=2),
            objective=kw.objectives.AWP("at", gamma=0.1),
        )
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    log = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    replicas = map(backend.replicas_of, network.variables)
    weights = [numpy_of(values) for values in replicas]
    return {"loss": log.history["loss"], "weights": weights}


def train_averages(strategy):
    """Averages of weights with batch norm, AWP, a monitor without data.

    Both halves of a batch are the same images. So two shares that batch norm
    normalises by themselves give the numbers of the whole batch.
    """
    x, y = data(20, False)
    twice = np.arange(20).reshape(4, 1, 5).repeat(2, axis=1).reshape(-1)
    x, y = x[twice], y[twice]
    pgd = kw.attacks.PGD(epsilon=0.03, steps=2, random_start=False)
    averages = {
        "at": kw.EMATeacher(0.5, batch_norm="reestimate", data=(x, y)),
        "awp": kw.StochasticWeightAveraging(2, data=(x, y)),
    }
    results = {}
    for objective, average in averages.items():
        with strategy.scope() if strategy else contextlib.nullcontext():
            network = classifier(True, False)
            model = kw.WakeModel(network, pgd, objective, eval_attack=pgd)
            model.compile(keras.optimizers.SGD(0.03, momentum=0.9))
        log = model.fit(
            x,
            y,
            batch_size=10,
            epochs=3,
            shuffle=False,
            validation_data=(x, y),
            callbacks=[average, kw.CatastrophicOverfitMonitor(samples=16)],
            verbose=0,
        )
        results[objective] = {
            "history": log.history,
            "student": numpy_of(network.weights),
            "teacher": numpy_of(model.teacher.weights),
            "steps": int(numpy_of([model.train_steps])[0]),
            "updates": int(numpy_of([model.teacher_updates])[0]),
            "correlation": [],
            "evaluated": {},
        }
    return results

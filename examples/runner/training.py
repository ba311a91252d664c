"""The model of a run and its training, which is saved after every epoch."""

import argparse
import pathlib
import sys
import time
import warnings
from typing import Any

import keras

import keras_wake as kw
from runner import networks
from runner.methods import TEACHER_BEST_BY
from runner.parts import Parts
from runner.record import attempt
from runner.record import BACKUP
from runner.record import Record


def load_data(args: argparse.Namespace) -> Any:
    """The images of a run."""
    size = args.validation
    keras_cv = args.augment == "keras_cv"
    splits = kw.datasets.load(
        args.dataset,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        validation_split=int(size) if size >= 1 else size,
        limit=args.limit,
        test_limit=args.test_limit,
        augment=None if keras_cv else args.augment,
        cutmix=args.cutmix,
        seed=args.seed,
    )
    return networks.with_rand_augment(splits, args.seed) if keras_cv else splits


def learning_rate(rate: float, epochs: int, steps: int) -> Any:
    """A learning rate that drops to a tenth after 1/2 and 3/4 of the epochs.

    An epoch has so many `steps`.
    """
    # Keras keeps the old value at the boundary, and counts steps from 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [epochs // 2 * steps - 1, epochs * 3 // 4 * steps - 1],
        [rate, rate / 10, rate / 100],
    )


def build(args: argparse.Namespace, parts: Parts, splits: Any) -> Any:
    """The compiled `WakeModel` of a run."""
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    width = {"width": args.width} if args.model == "preact_resnet18" else {}
    classifier = networks.network(
        args.model, splits.num_classes, splits.input_shape, **width
    )
    model = kw.WakeModel(
        classifier,
        attack=parts.attack,
        objective=parts.objective,
        eval_attack=parts.eval_attack,
        schedule=parts.schedule,
        temperature=args.temperature,
        seed=args.seed,
        attack_dtype=args.attack_dtype,
    )
    momentum = 0.9
    model.compile(
        optimizer=keras.optimizers.SGD(
            learning_rate(args.learning_rate, args.epochs, len(splits.train)),
            momentum=momentum,
            # Keras subtracts the decay from the weights directly; PyTorch adds
            # it to the gradient, where momentum multiplies it by 1 / (1 − m).
            weight_decay=args.weight_decay / (1 - momentum),
        )
    )
    return model


def best_path(run_dir: pathlib.Path, key: str) -> pathlib.Path:
    """The file of the model at the epoch that was best in `key`."""
    return run_dir / f"best_{key}.keras"


def backup(run_dir: pathlib.Path) -> kw.BackupAndRestore:
    """The backup from which a resumed run starts."""
    return kw.BackupAndRestore(run_dir / BACKUP, delete_checkpoint=False)


class KeepBest(keras.callbacks.Callback):
    """Keeps the model of the epoch with the highest value of a log."""

    def __init__(self, run_dir: pathlib.Path, key: str):
        super().__init__()
        self.path, self.key = best_path(run_dir, key), key
        self.best = -1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        value = (logs or {}).get(self.key)
        if value is not None and value > self.best and self.model.is_chief:
            what = f"The best model, {self.path.name},"
            # The old file stays complete until the new one is.
            if attempt(what, self.model.save, self.path):
                self.best = float(value)

    def get_state(self) -> dict[str, float]:
        return {"best": self.best}

    def set_state(self, state: dict[str, float]) -> None:
        self.best = state["best"]


class KeepRecord(keras.callbacks.Callback):
    """Writes the record after every epoch.

    The backup is written after the record. Epochs that are only in the record
    are trained again.
    """

    def __init__(self, record: Record):
        super().__init__()
        self.record = record

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.record.add_epoch(logs or {}, time.time() - self._begin)
        attempt("The record", self.record.write)

    def get_state(self) -> dict[str, Any]:
        return {key: self.record.content[key] for key in ("epochs", "seconds")}

    def set_state(self, state: dict[str, Any]) -> None:
        self.record.content.update(state)


def train(
    args: argparse.Namespace,
    parts: Parts,
    model: Any,
    splits: Any,
    record: Record,
) -> kw.CrossClassAttribution:
    """Trains the epochs that the backup does not have.

    Returns the callback with the matrix of every validation.
    """
    method = parts.method
    attribution = kw.CrossClassAttribution()
    if method.on_clean_images:
        attribution = kw.CrossClassAttribution(
            data=splits.arrays("validation"),
            attack=kw.attacks.PGD(steps=0),
            every=args.eval_every,
        )
    teachers = parts.teachers(args, splits)
    callbacks = [attribution, *teachers]
    if method.single_step:
        # The same images in each process, of all classes.
        images = splits.arrays("train", limit=min(256, splits.train_size))
        callbacks.append(kw.CatastrophicOverfitMonitor(data=images))
    if method.averages or method.teacher == "kdswa":
        callbacks.append(KeepBest(args.run_dir, TEACHER_BEST_BY))
    callbacks.append(KeepBest(args.run_dir, method.best_by))
    if args.early_stop:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                method.stopped_by, mode="max", patience=args.early_stop
            )
        )
    callbacks += [KeepRecord(record), backup(args.run_dir)]
    with warnings.catch_warnings():
        # A finished run is resumed for its report alone.
        warnings.filterwarnings("ignore", ".*nothing is left to train")
        model.fit(
            splits.train,
            shuffle=False,  # The pipeline shuffles.
            epochs=args.epochs,
            validation_data=splits.validation,
            validation_freq=args.eval_every,
            callbacks=callbacks,
            verbose=(1 if sys.stdout.isatty() else 2) if model.is_chief else 0,
        )
    ramp = parts.ramp
    if method.teacher == "adaptive" and ramp is not None:
        record.content["found_ramp"] = [ramp.start_epoch, ramp.end_epoch]
    return attribution

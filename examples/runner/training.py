"""The model of a run and its training, kept after every epoch."""

import argparse
import os
import pathlib
import sys
import time
from typing import Any

import keras

import keras_wake as kw
from runner.record import Record


class Parts:
    """Attacks, schedule and teacher: what needs no data to be checked.

    Sets the flags of the ramp that were not given.

    Args:
        args: Flags of the run.

    Raises:
        ValueError: Flags that the library refuses.
    """

    def __init__(self, args: argparse.Namespace):
        usual = kw.schedules.DistillationRamp.for_epochs(args.epochs)
        if args.start_epoch is None:
            args.start_epoch = usual.start_epoch
        if args.end_epoch is None:
            args.end_epoch = max(args.start_epoch + 1, usual.end_epoch)
        self.attack = kw.attacks.PGD(
            args.norm, args.epsilon, step_size=args.step_size, steps=args.steps
        )
        self.eval_attack = kw.attacks.PGD.for_evaluation(
            self.attack, args.eval_steps
        )
        self.schedule = None
        self.teacher = None
        if args.method == "wake":
            self.schedule = kw.schedules.DistillationRamp(
                args.start_epoch,
                args.end_epoch,
                peak=args.peak,
                final=args.final,
            )
            self.teacher = kw.EMATeacher(args.decay, warmup=args.ema_warmup)


def load_data(args: argparse.Namespace) -> Any:
    """The images of a run."""
    size = args.validation
    return kw.datasets.load(
        args.dataset,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        validation_split=int(size) if size >= 1 else size,
        limit=args.limit,
        test_limit=args.test_limit,
        augment=args.augment,
        seed=args.seed,
    )


def learning_rate(rate: float, epochs: int, steps: int) -> Any:
    """The rate, divided by 10 with the first step of two later epochs.

    Args:
        rate: The first one.
        epochs: Number of epochs; it drops after 1/2 and 3/4 of them.
        steps: Number of steps in an epoch.
    """
    # Keras keeps the old value at the boundary, and counts steps from 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [epochs // 2 * steps - 1, epochs * 3 // 4 * steps - 1],
        [rate, rate / 10, rate / 100],
    )


def build(args: argparse.Namespace, parts: Parts, splits: Any) -> Any:
    """The compiled `WakeModel` of a run."""
    keras.utils.set_random_seed(args.seed)
    shape, classes = splits.input_shape, splits.num_classes
    if args.model == "preact_resnet18":
        classifier = kw.models.PreActResNet18(classes, shape, width=args.width)
    elif shape[0] < 16:
        classifier = kw.models.SmallCNN(
            classes, shape, widths=(32, 64, 128), strides=(1, 2, 1)
        )
    else:
        classifier = kw.models.SmallCNN(classes, shape)
    model = kw.WakeModel(
        classifier,
        attack=parts.attack,
        objective="standard" if args.method == "standard" else "at",
        eval_attack=parts.eval_attack,
        schedule=parts.schedule,
        temperature=args.temperature,
        seed=args.seed,
    )
    momentum = 0.9
    model.compile(
        optimizer=keras.optimizers.SGD(
            learning_rate(args.learning_rate, args.epochs, len(splits.train)),
            momentum=momentum,
            # Keras takes the decay off the weights directly; PyTorch adds it
            # to the gradient, where momentum multiplies it by 1 / (1 − m).
            weight_decay=args.weight_decay / (1 - momentum),
        )
    )
    return model


def best_path(run_dir: pathlib.Path, key: str) -> pathlib.Path:
    """The file with the weights of the epoch that was best in `key`."""
    return run_dir / f"best_{key}.weights.h5"


def restore(run_dir: pathlib.Path, model: Any) -> int:
    """Loads the newest backup; returns after how many epochs it was made."""
    newest = max(_backups(run_dir), default=None)
    if newest is None:
        return 0
    model.optimizer.build(model.trainable_variables)
    model.load_weights(newest)
    return int(newest.name.split("_")[1].split(".")[0])


def _backups(run_dir: pathlib.Path) -> list[pathlib.Path]:
    return list((run_dir / "backup").glob("epoch_*.weights.h5"))


def _save_aside(model: Any, path: pathlib.Path) -> None:
    """Saves weights so that `path` is never half written."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name("unfinished.weights.h5")
    model.save_weights(temporary)
    os.replace(temporary, path)


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the highest value of a log."""

    def __init__(self, run_dir: pathlib.Path, key: str, record: Record):
        super().__init__()
        self.path, self.key = best_path(run_dir, key), key
        known = [epoch.get(key) for epoch in record.content["epochs"]]
        self.best = max((v for v in known if v is not None), default=-1.0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        value = (logs or {}).get(self.key)
        if value is not None and value > self.best:
            self.best = float(value)
            _save_aside(self.model, self.path)


class KeepEpoch(keras.callbacks.Callback):
    """Writes record and backup after every epoch, in this order.

    What the record has and the backup has not is trained again. The epoch is
    in the name of the backup, so that one rename tells both.
    """

    def __init__(self, run_dir: pathlib.Path, record: Record):
        super().__init__()
        self.run_dir, self.record = run_dir, record

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.record.add_epoch(logs or {}, time.time() - self._begin)
        outdated = _backups(self.run_dir)
        name = f"epoch_{epoch + 1:05d}.weights.h5"
        _save_aside(self.model, self.run_dir / "backup" / name)
        for path in outdated:
            path.unlink()


def train(
    args: argparse.Namespace,
    parts: Parts,
    model: Any,
    splits: Any,
    record: Record,
) -> None:
    """Trains the epochs that the record does not have."""
    finished = len(record.content["epochs"])
    if finished >= args.epochs:
        return
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: splits.set_epoch(epoch)
        ),
        kw.CrossClassAttribution(),
    ]
    if parts.teacher is not None:
        callbacks.append(parts.teacher)
        key = "val_teacher_robust_accuracy"
        callbacks.append(KeepBest(args.run_dir, key, record))
    callbacks.append(KeepBest(args.run_dir, "val_robust_accuracy", record))
    callbacks.append(KeepEpoch(args.run_dir, record))
    model.fit(
        splits.train,
        shuffle=False,  # The pipeline shuffles.
        epochs=args.epochs,
        initial_epoch=finished,
        validation_data=splits.validation,
        validation_freq=args.eval_every,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )

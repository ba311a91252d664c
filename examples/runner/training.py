"""The model of a run and its training, kept after every epoch."""

import argparse
import pathlib
import sys
import time
from typing import Any

import keras

import keras_wake as kw
from runner.record import attempt
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
    keras.config.set_dtype_policy(args.precision)
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
    """The model at the epoch that was best in `key`."""
    return run_dir / f"best_{key}.keras"


def backup(run_dir: pathlib.Path) -> kw.BackupAndRestore:
    """What a resumed run starts from."""
    return kw.BackupAndRestore(run_dir / "backup", delete_checkpoint=False)


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
            # Which never spoils the file that is there.
            if attempt(what, self.model.save, self.path):
                self.best = float(value)

    def get_state(self) -> dict[str, float]:
        return {"best": self.best}

    def set_state(self, state: dict[str, float]) -> None:
        self.best = state["best"]


class KeepRecord(keras.callbacks.Callback):
    """Writes the record after every epoch.

    What the record has and the backup, which comes after it, has not is
    trained again.
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
) -> None:
    """Trains the epochs that the backup does not have."""
    callbacks = [kw.CrossClassAttribution()]
    if parts.teacher is not None:
        callbacks.append(parts.teacher)
        key = "val_teacher_robust_accuracy"
        callbacks.append(KeepBest(args.run_dir, key))
    callbacks.append(KeepBest(args.run_dir, "val_robust_accuracy"))
    callbacks.append(KeepRecord(record))
    callbacks.append(backup(args.run_dir))
    model.fit(
        splits.train,
        shuffle=False,  # The pipeline shuffles.
        epochs=args.epochs,
        validation_data=splits.validation,
        validation_freq=args.eval_every,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )

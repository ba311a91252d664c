"""The model of a run and its training, kept after every epoch."""

import argparse
import pathlib
import sys
import time
from typing import Any

import keras

import keras_wake as kw
from runner.methods import METHODS
from runner.record import attempt
from runner.record import Record

AVERAGES = (kw.EMATeacher, kw.StochasticWeightAveraging)


class Parts:
    """What a method is made of, as far as it needs no data to be checked.

    Sets the flags of the ramp that were not given.

    Args:
        args: Flags of the run.

    Raises:
        ValueError: Flags that the library refuses.
        FileNotFoundError: A pretrained teacher is not there.
    """

    def __init__(self, args: argparse.Namespace):
        self.method = METHODS[args.method]
        usual = kw.schedules.DistillationRamp.for_epochs(args.epochs)
        if args.start_epoch is None:
            args.start_epoch = usual.start_epoch
        if args.end_epoch is None:
            args.end_epoch = max(args.start_epoch + 1, usual.end_epoch)
        self.objective = objective(args)
        if self.method.single_step:
            # FGSM-RS, as `FGSM.fast_at` makes it, in any norm.
            self.attack = kw.attacks.FGSM(
                args.norm,
                args.epsilon,
                step_size=1.25 * args.epsilon,
                random_start=True,
            )
        else:
            self.attack = kw.attacks.PGD(
                args.norm,
                args.epsilon,
                step_size=args.step_size,
                steps=args.steps,
            )
        self.eval_attack = kw.attacks.PGD.for_evaluation(
            self.attack, args.eval_steps
        )
        self.schedule = schedule(args)
        self.average = None
        if self.method.teacher in ("wake", "adaptive", "average"):
            self.average = kw.EMATeacher(args.decay, warmup=args.ema_warmup)
        if self.method.teacher == "kdswa":
            for path in (args.robust_teacher, args.standard_teacher):
                if not path.is_file():
                    raise FileNotFoundError(
                        f"There is no network at {path} to learn from."
                    )

    def teachers(self, args: argparse.Namespace, splits: Any) -> list[Any]:
        """The callbacks that make, or are, the teachers of the method."""
        if self.average is not None:
            return [self.average]
        if self.method.teacher != "kdswa":
            return []
        load = keras.models.load_model
        return [
            kw.PretrainedTeacher(load(args.robust_teacher), args.robust_weight),
            kw.PretrainedTeacher(
                load(args.standard_teacher), args.standard_weight
            ),
            kw.StochasticWeightAveraging(
                args.swa_start, data=splits.arrays("train")
            ),
        ]


def objective(args: argparse.Namespace) -> Any:
    """What the student of a run minimises."""
    method, smoothing = METHODS[args.method], args.label_smoothing
    objectives = kw.objectives
    made: Any
    if method.objective == "mart":
        if smoothing:
            raise ValueError("--label-smoothing has no place in MART.")
        made = objectives.MART(args.beta)
    elif method.objective == "trades":
        made = objectives.TRADES(args.beta, smoothing)
    elif method.objective == "standard":
        made = objectives.Standard(smoothing)
    else:
        made = objectives.AdversarialTraining(smoothing)
    return objectives.AWP(made, args.gamma) if method.awp else made


def schedule(args: argparse.Namespace) -> Any:
    """How much the student learns from its average, epoch by epoch."""
    teacher = METHODS[args.method].teacher
    weights = {"peak": args.peak, "final": args.final}
    if teacher == "wake":
        return kw.schedules.DistillationRamp(
            args.start_epoch, args.end_epoch, **weights
        )
    if teacher == "adaptive":
        return kw.schedules.AdaptiveRamp(
            args.patience, args.ramp_epochs, **weights
        )
    return None


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
        cutmix=args.cutmix,
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


def network(args: argparse.Namespace, classes: int, shape: Any) -> Any:
    """The classifier that `--model` names."""
    models = kw.models
    if args.model == "preact_resnet18":
        return models.PreActResNet18(classes, shape, width=args.width)
    if args.model == "wide_resnet28_10":
        return models.WideResNet28_10(classes, shape)
    if args.model == "wide_resnet34_10":
        return models.WideResNet34_10(classes, shape)
    if args.model == "deit_tiny":
        return models.DeiTTiny(classes, shape)
    if shape[0] < 16:
        return models.SmallCNN(
            classes, shape, widths=(32, 64, 128), strides=(1, 2, 1)
        )
    return models.SmallCNN(classes, shape)


def build(args: argparse.Namespace, parts: Parts, splits: Any) -> Any:
    """The compiled `WakeModel` of a run."""
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    classifier = network(args, splits.num_classes, splits.input_shape)
    model = kw.WakeModel(
        classifier,
        attack=parts.attack,
        objective=parts.objective,
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
) -> kw.CrossClassAttribution:
    """Trains the epochs that the backup does not have.

    Returns:
        The callback with the matrix of every validation.
    """
    attribution = kw.CrossClassAttribution()
    if parts.method.objective == "standard":
        # Regular training is looked at on clean images.
        attribution = kw.CrossClassAttribution(
            data=splits.arrays("validation"),
            attack=kw.attacks.PGD(steps=0),
            every=args.eval_every,
        )
    teachers = parts.teachers(args, splits)
    callbacks = [attribution, *teachers]
    if any(isinstance(c, AVERAGES) for c in teachers):
        key = "val_teacher_robust_accuracy"
        callbacks.append(KeepBest(args.run_dir, key))
    callbacks.append(KeepBest(args.run_dir, "val_robust_accuracy"))
    if args.early_stop:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                "val_robust_accuracy", mode="max", patience=args.early_stop
            )
        )
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
    return attribution

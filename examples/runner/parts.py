"""The parts of a method: objective, attacks, schedule, teachers."""

import argparse
import pathlib
from typing import Any

import keras

import keras_wake as kw
from runner import networks
from runner.methods import METHODS


class Parts:
    """The parts of a method, checked as far as this needs no data.

    It raises a `ValueError` if the library refuses a flag, or a file is no
    pretrained teacher, and an `ImportError` if a package is not installed.
    """

    def __init__(self, args: argparse.Namespace):
        self.method = METHODS[args.method]
        for flag in ("model", "augment"):
            value = getattr(args, flag) or ""
            if value.startswith("keras_cv"):
                networks.import_keras_cv(f"--{flag} {value}")
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
                args.norm, args.epsilon, args.step_size, args.steps
            )
        self.eval_attack = kw.attacks.PGD.for_evaluation(
            self.attack, args.eval_steps
        )
        self.schedule = schedule(args)
        self.average: Any = None
        if self.method.averages:
            self.average = kw.EMATeacher(args.decay, warmup=args.ema_warmup)
        self.pretrained: dict[str, kw.PretrainedTeacher] = {}
        if self.method.teacher == "kdswa":
            for name in ("robust", "standard"):
                flag = f"--{name}-teacher"
                path = getattr(args, f"{name}_teacher")
                network = load_network(flag, path)
                try:
                    self.pretrained[flag] = kw.PretrainedTeacher(
                        network, getattr(args, f"{name}_weight")
                    )
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{flag}: {path} is no teacher: {error}"
                    ) from error

    def check_data(self, splits: Any) -> None:
        """Refuses pretrained teachers of other images or classes."""
        for flag, callback in self.pretrained.items():
            check_fits(flag, callback.teacher, splits)

    def teachers(self, args: argparse.Namespace, splits: Any) -> list[Any]:
        """The callbacks that make, or are, the teachers of the method."""
        if self.average is not None:
            reestimate = args.batch_norm == "reestimate"
            self.average = kw.EMATeacher(
                args.decay,
                args.batch_norm,
                args.ema_warmup,
                splits.arrays("train") if reestimate else None,
            )
            return [self.average]
        if not self.pretrained:
            return []
        return [
            *self.pretrained.values(),
            kw.StochasticWeightAveraging(
                args.swa_start, data=splits.arrays("train")
            ),
        ]

    @property
    def ramp(self) -> kw.schedules.DistillationRamp | None:
        """The ramp that was given, or that the average has found by now."""
        if self.method.teacher == "adaptive":
            return self.average.ramp
        return self.schedule


def load_network(flag: str, path: pathlib.Path) -> keras.Model:
    """The network in a `.keras` file that holds one, and no `WakeModel`."""
    advice = "Pass the best.keras or robust.keras of a run."
    try:
        network = keras.models.load_model(path)
    # Keras raises different errors for different faults of a file.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{flag}: {path} cannot be read as a network: {reason} {advice}"
        ) from error
    if isinstance(network, kw.WakeModel):
        raise ValueError(
            f"{flag}: {path} holds a whole WakeModel, student and teacher, "
            f"where one network is needed. {advice}"
        )
    return network


def check_fits(flag: str, network: keras.Model, splits: Any) -> None:
    """Refuses a network of other images or classes than the data's."""
    # A subclassed network may not know its shapes; then `fit` refuses it.
    images = (None, *splits.input_shape)
    shape = tuple(getattr(network, "input_shape", images)[1:])
    classes = getattr(network, "output_shape", (splits.num_classes,))[-1]
    fits = len(shape) == len(splits.input_shape) and all(
        size in (None, there)
        for size, there in zip(shape, splits.input_shape, strict=False)
    )
    if not fits or classes != splits.num_classes:
        raise ValueError(
            f"{flag} does not fit the data: the network takes images of shape "
            f"{shape} and knows {classes} classes. The data: images of shape "
            f"{tuple(splits.input_shape)}, {splits.num_classes} classes."
        )


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
        epochs = args.start_epoch, args.end_epoch
        return kw.schedules.DistillationRamp(*epochs, **weights)
    if teacher == "adaptive":
        weights["latest_start"] = args.latest_start
        epochs = args.patience, args.ramp_epochs
        return kw.schedules.AdaptiveRamp(*epochs, **weights)
    return None

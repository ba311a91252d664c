"""The flags of all examples."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from runner.methods import describe
from runner.methods import METHODS

MODELS = (
    "small",
    "preact_resnet18",
    "wide_resnet28_10",
    "wide_resnet34_10",
    "deit_tiny",
)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# What a run may be resumed with another value of. Data may have moved.
UNIMPORTANT = (
    "run_dir",
    "resume",
    "threads",
    "data_dir",
    "robust_teacher",
    "standard_teacher",
)


def at_least(minimum: int) -> Callable[[str], int]:
    """A converter to a whole number of at least `minimum`."""

    def convert(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {minimum}. "
                f"Received: {text!r}."
            )
        return int(text)

    return convert


def positive(text: str) -> float:
    """A converter to a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"must be a number above 0. Received: {text!r}."
        )
    return value


def share(text: str) -> float:
    """A converter to a number of at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"must be at least 0 and below 1. Received: {text!r}."
        )
    return value


def validation_size(text: str) -> float:
    """A converter to a fraction below 1, or a whole number of images."""
    value = positive(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(
            "must be a fraction below 1 or a whole number of images. "
            f"Received: {text!r}."
        )
    return value


class _HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter,
    argparse.RawDescriptionHelpFormatter,
):
    """Shows the description as it is, and defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None:
            return action.help
        return super()._get_help_string(action)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"{description.strip()}\n\nMethods:\n{describe()}",
        formatter_class=_HelpFormatter,
    )
    # fmt: off
    add = parser.add_argument_group("run").add_argument
    add("--method", choices=METHODS, default="wake", metavar="METHOD",
        help="one of those above")
    add("--run-dir", type=pathlib.Path, help="folder that the run writes; "
        "default: runs/DATASET-METHOD-seedSEED")
    add("--resume", action="store_true", help="continue the run in --run-dir")
    add("--seed", type=at_least(0), default=0, help="of weights, data and "
        "attacks")
    add("--threads", type=at_least(0), default=0, help="CPU threads (not with "
        "JAX); 0: all")

    add = parser.add_argument_group("data").add_argument
    add("--data-dir", type=pathlib.Path, help="folder with train/CLASS and "
        "test/CLASS, in place of the download")
    add("--limit", type=at_least(1), help="number of training images to use")
    add("--test-limit", type=at_least(1), help="number of test images to use")
    add("--validation", type=validation_size, help="training images set aside "
        "to choose the best epoch: a fraction, or a number of images")
    add("--augment", choices=("crop_flip", "flip", "none"), help="of training "
        "images; default: the data set's own")
    add("--cutmix", type=positive, help="α of CutMix; default: the method's")

    add = parser.add_argument_group("training").add_argument
    add("--model", choices=MODELS, help="network")
    add("--width", type=at_least(1), default=64, help="of the first stage of "
        "the ResNet")
    add("--epochs", type=at_least(2), help="number of epochs")
    add("--batch-size", type=at_least(1), help="images in a step")
    add("--learning-rate", type=positive, help="divided by 10 at 1/2 and 3/4")
    add("--weight-decay", type=float, default=5e-4, help="L2, as PyTorch's SGD "
        "counts it")
    add("--label-smoothing", type=share, help="share of a label that goes to "
        "all classes; default: the method's")
    add("--beta", type=positive, default=6.0, help="of TRADES and MART")
    add("--gamma", type=positive, help="of AWP; default: 0.005 with TRADES, "
        "else 0.01")
    add("--early-stop", type=at_least(1), metavar="N", help="stop after N "
        "validations without a better robust accuracy")
    add("--precision", choices=PRECISIONS, default="float32", help="of the "
        "network; weights, perturbations and losses stay in float32")
    add("--eval-every", type=at_least(1), default=1, help="epochs between "
        "validations")

    add = parser.add_argument_group("attack").add_argument
    add("--norm", choices=("linf", "l2"), default="linf", help="threat model")
    add("--epsilon", type=positive, help="radius, in pixel units of [0, 1]; "
        "default: the data set's usual one for the norm")
    add("--step-size", type=positive, help="of the training attack; default: "
        "epsilon / 4, or / 8 for l2")
    add("--steps", type=at_least(0), default=10, help="of the training attack")
    add("--eval-steps", type=at_least(1), default=20, help="of the evaluating "
        "attack")

    add = parser.add_argument_group("WAKE").add_argument
    add("--start-epoch", type=at_least(0), help="t_s; default: half of the "
        "epochs")
    add("--end-epoch", type=at_least(1), help="t_e; default: 55 %% of the "
        "epochs")
    add("--peak", type=float, default=1.0, help="what the ramp rises to")
    add("--final", type=float, default=1.0, help="KD weight from t_e on")
    add("--temperature", type=positive, default=2.0, help="of the distillation")
    add("--decay", type=float, default=0.999, help="of the teacher's average")
    add("--patience", type=at_least(1), default=3, help="of wake-adaptive: "
        "validations without a better teacher before it is frozen")
    add("--ramp-epochs", type=at_least(1), help="of wake-adaptive, t_e - t_s; "
        "default: 5 %% of the epochs")
    add("--ema-warmup", action=argparse.BooleanOptionalAction, default=False,
        help="ramp the decay up over the first updates")

    add = parser.add_argument_group("KDSWA").add_argument
    add("--robust-teacher", type=pathlib.Path, help="network of a run of AT, "
        "a .keras file")
    add("--standard-teacher", type=pathlib.Path, help="network of a run of "
        "the method standard")
    add("--robust-weight", type=share, default=0.6, help="of its distillation")
    add("--standard-weight", type=share, default=0.1, help="of its "
        "distillation")
    add("--swa-start", type=at_least(1), help="first epoch that is averaged; "
        "default: at 55/200 of the epochs")
    # fmt: on
    return parser


def parse_args(
    description: str, defaults: dict[str, Any], argv: Any = None
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, and the flags as given with the defaults of one example.

    Args:
        description: Docstring of the example.
        defaults: Values of flags; also `dataset`, its name, and `epsilons`,
            the usual radius for each norm.
        argv: Arguments in place of those of the command line.
    """
    parser = _parser(description)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    epsilons = vars(args).pop("epsilons")
    if args.epsilon is None:
        args.epsilon = epsilons[args.norm]
    if args.step_size is None:
        args.step_size = args.epsilon / (4 if args.norm == "linf" else 8)
    if args.eval_every > args.epochs:
        parser.error(
            "argument --eval-every: must not be above --epochs, because "
            "validation chooses the best epoch. Received: "
            f"{args.eval_every} of {args.epochs} epochs."
        )
    fill_in(args)
    missing = [
        f"--{name.replace('_', '-')}"
        for name in ("robust_teacher", "standard_teacher")
        if METHODS[args.method].teacher == "kdswa"
        and getattr(args, name) is None
    ]
    if missing:
        parser.error(
            f"--method {args.method} learns from networks of earlier runs. "
            f"Missing: {', '.join(missing)}. Each run leaves its network in "
            "robust.keras."
        )
    if args.run_dir is None:
        args.run_dir = pathlib.Path("runs") / (
            f"{args.dataset}-{args.method}-seed{args.seed}"
        )
    return parser, args


def fill_in(args: argparse.Namespace) -> None:
    """Sets the flags whose default depends on the method or the epochs."""
    method = METHODS[args.method]
    if args.label_smoothing is None:
        args.label_smoothing = method.label_smoothing
    if args.cutmix is None:
        args.cutmix = method.cutmix
    if args.gamma is None:
        args.gamma = 0.005 if method.objective == "trades" else 0.01
    if args.ramp_epochs is None:
        args.ramp_epochs = max(1, round(0.05 * args.epochs))
    if args.swa_start is None:
        args.swa_start = max(1, round(55 / 200 * args.epochs))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What makes a run what it is; a resumed run must agree in all of it."""
    return {k: v for k, v in sorted(vars(args).items()) if k not in UNIMPORTANT}

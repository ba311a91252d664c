"""The flags of all examples."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

METHODS = ("wake", "at", "standard")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# What a run may be resumed with another value of. Data may have moved.
UNIMPORTANT = ("run_dir", "resume", "threads", "data_dir")


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
        description=description, formatter_class=_HelpFormatter
    )
    # fmt: off
    add = parser.add_argument_group("run").add_argument
    add("--method", choices=METHODS, default="wake", help="wake: adversarial "
        "training distilled from its own average; at: adversarial training; "
        "standard: clean images")
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

    add = parser.add_argument_group("training").add_argument
    add("--model", choices=("small", "preact_resnet18"), help="network")
    add("--width", type=at_least(1), default=64, help="of the first stage of "
        "the ResNet")
    add("--epochs", type=at_least(2), help="number of epochs")
    add("--batch-size", type=at_least(1), help="images in a step")
    add("--learning-rate", type=positive, help="divided by 10 at 1/2 and 3/4")
    add("--weight-decay", type=float, default=5e-4, help="L2, as PyTorch's SGD "
        "counts it")
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
    add("--ema-warmup", action=argparse.BooleanOptionalAction, default=False,
        help="ramp the decay up over the first updates")
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
    if args.run_dir is None:
        args.run_dir = pathlib.Path("runs") / (
            f"{args.dataset}-{args.method}-seed{args.seed}"
        )
    return parser, args


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What makes a run what it is; a resumed run must agree in all of it."""
    return {k: v for k, v in sorted(vars(args).items()) if k not in UNIMPORTANT}

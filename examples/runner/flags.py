"""The flags of all examples."""

import argparse
import hashlib
import pathlib
from typing import Any

from runner import settings
from runner.methods import describe
from runner.methods import METHODS
from runner.parsing import at_least
from runner.parsing import Parser
from runner.parsing import positive
from runner.parsing import share
from runner.parsing import validation_size

# The networks of which there are published PyTorch weights.
PYTORCH = ("preact_resnet18", "wide_resnet28_10", "wide_resnet34_10")
MODELS = ("small", *PYTORCH, "deit_tiny", "keras_cv_resnet18")
AUGMENTATIONS = ("crop_flip", "flip", "none", "keras_cv")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
ATTACK_DTYPES = ("bfloat16",)
TEACHERS = ("robust_teacher", "standard_teacher")
# Flags that may differ when a run is resumed. Files may have moved.
UNIMPORTANT = ("run_dir", "resume", "threads", "data_dir", "matrix_epochs")


class _HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter,
    argparse.RawDescriptionHelpFormatter,
):
    """Keeps the line breaks of the description, and shows defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None:
            return action.help
        return super()._get_help_string(action)


def _parser(description: str) -> Parser:
    parser = Parser(
        f"{description.strip()}\n\nMethods:\n{describe()}", _HelpFormatter
    )
    # fmt: off
    add = parser.add_argument_group("run").add_argument
    add("--method", choices=METHODS, default="wake", metavar="METHOD",
        help="one of those above")
    add("--run-dir", type=pathlib.Path, help="folder that the run writes; "
        "default: runs/DATASET-METHOD-seedSEED")
    add("--resume", action="store_true", help="continue the run in --run-dir")
    add("--seed", type=at_least(0), default=0, help="of weights, data, attacks")
    add("--threads", type=at_least(0), default=0, help="CPU threads (not with "
        "JAX); 0: all")
    add("--matrix-epochs", type=at_least(1), nargs="+", metavar="EPOCH",
        help="epochs whose matrices are drawn side by side; default: first, "
        "best, last and some between")

    add = parser.add_argument_group("data").add_argument
    add("--data-dir", type=pathlib.Path, help="folder with train/CLASS and "
        "test/CLASS, in place of the download")
    add("--limit", type=at_least(1), help="number of training images to use")
    add("--test-limit", type=at_least(1), help="number of test images to use")
    add("--validation", type=validation_size, help="training images set aside "
        "to choose the best epoch: a fraction, or a number of images")
    add("--augment", choices=AUGMENTATIONS, help="of training images; "
        "default: the data set's own; keras_cv: that, then RandAugment")
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
    add("--beta", type=positive, help="of TRADES (default: 6) and MART (5)")
    add("--gamma", type=positive, help="of AWP; default: 0.005 with TRADES, "
        "else 0.01")
    add("--early-stop", type=at_least(1), metavar="N", help="stop after N "
        "validations without a better robust accuracy (of the average, if the "
        "method has one from the first epoch on; clean accuracy with "
        "--method standard)")
    add("--precision", choices=PRECISIONS, default="float32", help="of the "
        "network; weights, perturbations and losses stay in float32")
    add("--attack-dtype", choices=ATTACK_DTYPES, help="of the network under "
        "the attack of training alone; default: as --precision")
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
    add("--start-epoch", type=at_least(0), help="t_s; default: half the epochs")
    add("--end-epoch", type=at_least(1), help="t_e; default: 55 %% of epochs")
    add("--peak", type=float, default=1.0, help="what the ramp rises to")
    add("--final", type=float, default=1.0, help="KD weight from t_e on")
    add("--temperature", type=positive, default=2.0, help="of the distillation")
    add("--decay", type=float, default=0.999, help="of the teacher's average")
    add("--patience", type=at_least(1), default=3, help="of wake-adaptive: "
        "validations without a better teacher before it is frozen")
    add("--ramp-epochs", type=at_least(1), help="of wake-adaptive, t_e - t_s; "
        "default: 5 %% of the epochs")
    add("--latest-start", type=at_least(1), help="of wake-adaptive: freeze the "
        "teacher after this epoch at the latest")
    add("--batch-norm", choices=("average", "copy", "reestimate"),
        default="average", help="how the teacher gets its batch-norm "
        "statistics; reestimate: by a pass over the training images")
    add("--ema-warmup", action=argparse.BooleanOptionalAction, default=False,
        help="ramp the decay up over the first updates")

    add = parser.add_argument_group("KDSWA").add_argument
    add("--robust-teacher", type=pathlib.Path, help="best.keras of a run of AT")
    add("--standard-teacher", type=pathlib.Path, help="best.keras of a run "
        "of the method standard")
    add("--robust-weight", type=share, default=0.6, help="of its distillation")
    add("--standard-weight", type=share, default=0.1, help="of its "
        "distillation")
    add("--swa-start", type=at_least(1), help="first epoch that is averaged; "
        "default: at 55/200 of the epochs")
    # fmt: on
    return parser


def parse_args(
    description: str, defaults: dict[str, Any], argv: Any = None
) -> tuple[Parser, argparse.Namespace]:
    """The parser, and the parsed flags with the defaults of one example.

    These are values of flags; also `dataset`, its name, and `epsilons`, the
    usual radius for each norm.
    """
    parser = _parser(description)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    epsilons = vars(args).pop("epsilons")
    if args.epsilon is None:
        args.epsilon = epsilons[args.norm]
    for name, value in settings.usual(vars(args)).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    _check_epochs(parser, args)
    _check_teachers(parser, args)
    if args.run_dir is None:
        args.run_dir = pathlib.Path("runs") / (
            f"{args.dataset}-{args.method}-seed{args.seed}"
        )
    return parser, args


def _check_epochs(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses epochs that do not fit the number of epochs."""
    if args.eval_every > args.epochs:
        parser.error(
            "argument --eval-every: must not be above --epochs, because "
            "validation chooses the best epoch. Received: "
            f"{args.eval_every} of {args.epochs} epochs."
        )
    validated = range(args.eval_every, args.epochs + 1, args.eval_every)
    without = [e for e in args.matrix_epochs or () if e not in validated]
    if without:
        parser.error(
            "argument --matrix-epochs: only validated epochs have matrices "
            f"(--eval-every {args.eval_every}, {args.epochs} epochs). "
            f"Received: {without}."
        )


def _check_teachers(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses missing files of teachers, and keeps their checksums."""
    for name in settings.TEACHER_FILES:
        setattr(args, name, None)
    if METHODS[args.method].teacher != "kdswa":
        return
    if args.robust_weight + args.standard_weight > 1:
        parser.error(
            "--robust-weight and --standard-weight must not exceed 1 "
            f"together. Received: {args.robust_weight:g} and "
            f"{args.standard_weight:g}."
        )
    for name in TEACHERS:
        path = getattr(args, name)
        if path is None or not path.is_file():
            parser.error(
                f"--method {args.method} learns from the best.keras of two "
                f"earlier runs. argument --{name.replace('_', '-')}: there is "
                f"no network at {path}."
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        setattr(args, f"{name}_sha256", digest[:12])


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a run, which must be the same when it is resumed.

    Flags that the method ignores are None.
    """
    ignored = (*UNIMPORTANT, *TEACHERS)
    given = {k: v for k, v in vars(args).items() if k not in ignored}
    return dict(sorted(settings.comparable(given).items()))

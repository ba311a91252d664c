"""A saved network and the images to evaluate it on.

The scripts that take a trained network share this: the flags for network,
images and threat, and how network and images are loaded.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import cifar10
import digits
import numpy as np

import keras_wake as kw
from runner import networks
from runner import parts
from runner.flags import PYTORCH
from runner.parsing import at_least
from runner.parsing import Parser
from runner.parsing import positive

DATASETS = ("digits", "cifar10", "cifar100", "tiny_imagenet", "folder")


def make_parser(
    description: str, purpose: str
) -> tuple[Parser, Callable[..., Any]]:
    """A parser with the flags for network, images and threat.

    Also returns what adds a flag to its last group, which is named `purpose`.
    """
    parser = Parser(description)
    # fmt: off
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--network", type=pathlib.Path, help="a .keras file, such as "
        "best.keras of a run")
    add("--pytorch", type=pathlib.Path, help="state dict, a file of torch.save")
    add = parser.add_argument_group("PyTorch weights").add_argument
    add("--model", choices=PYTORCH, default=PYTORCH[0])
    add("--width", type=at_least(1), default=64, help="of preact_resnet18 (64)")
    add("--no-final-norm", action="store_true", help="preact_resnet18 without "
        "a last batch norm")
    add("--raw-shortcut", action="store_true", help="preact_resnet18 whose "
        "projections see the block's input, as fast_adversarial has it")
    add("--reference", type=pathlib.Path, help="an .npz file with `images` in "
        "[0, 1] and PyTorch's `logits` of them, to compare with")
    add("--no-normalisation", action="store_true", help="pixels in [0, 1] as "
        "they are, as TRADES has it")
    add = parser.add_argument_group("images").add_argument
    add("--dataset", choices=DATASETS, default="cifar10")
    add("--data-dir", type=pathlib.Path)
    add("--test-limit", type=at_least(1), help="number of test images")
    add("--batch-size", type=at_least(1), default=128)
    add = parser.add_argument_group(purpose).add_argument
    add("--norm", choices=("linf", "l2"), default="linf")
    add("--epsilon", type=positive, help="radius; default: the usual one")
    # fmt: on
    return parser, add


def parsed(parser: Parser, argv: list[str] | None) -> argparse.Namespace:
    """The flags, with the usual radius for the images unless one is given."""
    args = parser.parse_args(argv)
    path = args.network or args.pytorch
    if not path.is_file():
        parser.error(f"there is no file {path}.")
    if args.epsilon is None:
        usual = digits if args.dataset == "digits" else cifar10
        args.epsilon = usual.DEFAULTS["epsilons"][args.norm]
    return args


def load(parser: Parser, args: argparse.Namespace) -> tuple[Any, Any]:
    """Network and data set; ends the program if they do not fit."""
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        splits = kw.datasets.load(
            args.dataset,
            data_dir=args.data_dir,
            batch_size=args.batch_size,
            validation_split=0,
            limit=1,  # Training images are not looked at.
            test_limit=args.test_limit,
        )
        return load_network(args, splits), splits
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        parser.error(str(error))


def load_network(args: argparse.Namespace, splits: Any) -> Any:
    """The network that one of the two flags names, if it fits the images."""
    if args.network:
        network = parts.load_network("--network", args.network)
        parts.check_fits("--network", network, splits)
        return network
    extra = {"mean": 0.0, "std": 1.0} if args.no_normalisation else {}
    if args.model == "preact_resnet18":
        extra |= {"width": args.width, "final_norm": not args.no_final_norm}
        extra["shortcut"] = "raw" if args.raw_shortcut else "preactivated"
    network = networks.network(
        args.model, splits.num_classes, splits.input_shape, **extra
    )
    reference = None
    if args.reference:
        with np.load(args.reference) as arrays:
            if not {"images", "logits"} <= set(arrays):
                raise ValueError(
                    "--reference must hold `images` and `logits`. Received: "
                    f"{args.reference} with {', '.join(arrays)}."
                )
            reference = arrays["images"], arrays["logits"]
    kw.models.load_pytorch_weights(network, args.pytorch, reference)
    return network

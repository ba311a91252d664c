"""Evaluates a trained network with AutoAttack, or with PGD alone.

    python examples/evaluate.py --network runs/cifar10-wake-seed0/robust.keras
    python examples/evaluate.py --network NETWORK --attack pgd --test-limit 1000

Takes a network that Keras has saved, or the published weights of a PyTorch
network. Prints the accuracy that is left after each attack, with its interval
and what makes it doubtful, and writes the same as a figure and as JSON. After
an interruption the same command continues from the state in the folder: the
published standard takes hours for 10,000 images on a CPU.
"""

import argparse
import pathlib
from typing import Any

from runner import saved
from runner.parsing import at_least
from runner.parsing import Parser
from runner.record import write_text

import keras_wake as kw


def parse_args(argv: Any = None) -> tuple[Parser, argparse.Namespace]:
    """The parser and the parsed flags."""
    parser, add = saved.make_parser(__doc__, "evaluation")
    # fmt: off
    add("--attack", choices=("standard", "rand", "pgd"), default="standard",
        help="version of AutoAttack (standard; rand for networks with random "
        "layers), or PGD alone")
    add("--steps", type=at_least(1), default=20, help="of PGD (20)")
    add("--seed", type=at_least(0), default=0, help="of the attacks")
    add("--out", type=pathlib.Path, default=pathlib.Path("evaluation"),
        help="folder to write, and to continue from (evaluation)")
    # fmt: on
    return parser, saved.parsed(parser, argv)


def evaluate(args: argparse.Namespace, network: Any, splits: Any) -> None:
    """Prints the report, and writes a figure and JSON."""
    options = {
        "batch_size": args.batch_size,
        "seed": args.seed,
        "state": args.out / "state.npz",
        "class_names": splits.class_names,
    }
    data = splits.arrays("test")
    if args.attack == "pgd":
        attack = kw.attacks.PGD(args.norm, args.epsilon, steps=args.steps)
        report = kw.evaluation.robust_accuracy(network, data, attack, **options)
    else:
        options |= {"epsilon": args.epsilon, "norm": args.norm}
        report = kw.evaluation.autoattack(
            network, data, version=args.attack, **options
        )
    print(report)
    write_text(args.out / "report.json", report.to_json(indent=1) + "\n")
    path = args.out / "robustness.png"
    kw.visualization.plot_robustness_report(report, path=path)
    print(f"\nrobustness.png and report.json are in {args.out}.")


def main(argv: list[str] | None = None) -> None:
    """Loads network and images, and evaluates the network."""
    parser, args = parse_args(argv)
    network, splits = saved.load(parser, args)
    try:
        evaluate(args, network, splits)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

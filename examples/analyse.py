"""Shows what a trained network confuses, and which classes share features.

    python examples/analyse.py --network runs/cifar10-wake-seed0/best.keras
    python examples/analyse.py --pytorch model_best.pth --attack none

Takes a network that Keras has saved, or the published weights of a PyTorch
network. Prints clean and robust accuracy of every class, CAS and the pairs of
classes that share most, and writes the same as figures and as JSON.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from runner import saved
from runner.parsing import at_least
from runner.parsing import Parser
from runner.record import strict
from runner.record import write_text

import keras_wake as kw


def parse_args(argv: Any = None) -> tuple[Parser, argparse.Namespace]:
    """The parser and the parsed flags."""
    parser, add = saved.make_parser(__doc__, "analysis")
    # fmt: off
    add("--mode", choices=("class", "instance"), default="class", help="of the "
        "matrix: mean vectors of classes, or nearest images")
    add("--attack", choices=("pgd", "none"), default="pgd")
    add("--steps", type=at_least(1), default=20)
    add("--seed", type=at_least(0), default=0, help="of the attack")
    add("--out", type=pathlib.Path, default=pathlib.Path("analysis"),
        help="folder to write (analysis)")
    # fmt: on
    return parser, saved.parsed(parser, argv)


def analyse(args: argparse.Namespace, network: Any, splits: Any) -> None:
    """Prints the report, and writes figures and JSON."""
    attack = None
    if args.attack == "pgd":
        size = args.epsilon / (4 if args.norm == "linf" else 8)
        attack = kw.attacks.PGD(args.norm, args.epsilon, size, args.steps)
    setting = {"batch_size": args.batch_size, "seed": args.seed}
    data = splits.arrays("test")
    report = kw.attribution.class_report(
        network, data, attack, splits.class_names, **setting
    )
    print(report)
    matrix = report.correlation
    if args.mode == "instance":
        matrix = kw.attribution.correlation_matrix(
            network, data, attack, mode="instance", **setting
        )
    cas = kw.attribution.cas(matrix)
    print(f"\nCAS of the {args.mode}-wise matrix: {cas:.1f}")
    figures = kw.visualization
    figures.plot_correlation_matrix(
        matrix,
        class_names=splits.class_names,
        title=f"{args.mode}-wise, {'under attack' if attack else 'clean'}, "
        f"CAS {cas:.1f}",
        path=args.out / "matrix.png",
    )
    figures.plot_class_report(report, path=args.out / "classes.png")
    if any(any(pair.examples) for pair in report.pairs[:5]):
        figures.plot_shared_pairs(report, path=args.out / "shared_pairs.png")
    content = {
        "network": str(args.network or args.pytorch),
        "dataset": args.dataset,
        "mode": args.mode,
        "mode_cas": cas,
        "mode_matrix": np.asarray(matrix).tolist(),
        **report.to_dict(),
    }
    text = json.dumps(strict(content), indent=1, allow_nan=False)
    write_text(args.out / "report.json", text + "\n")
    print(f"Figures and report.json are in {args.out}.")


def main(argv: list[str] | None = None) -> None:
    """Loads network and images, and analyses the network."""
    parser, args = parse_args(argv)
    analyse(args, *saved.load(parser, args))


if __name__ == "__main__":
    main()

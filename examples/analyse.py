"""What a trained network confuses, and which classes share features.

    python examples/analyse.py --network runs/cifar10-wake-seed0/best.keras
    python examples/analyse.py --pytorch model_best.pth --attack none

Takes a network that Keras has saved, or the published weights of a PyTorch
network. Prints clean and robust accuracy of every class, CAS and the pairs of
classes that share most, and writes the same as figures and as JSON.
"""

import argparse
import json
import math
import pathlib
from typing import Any

import cifar10
import digits
from runner.parsing import at_least
from runner.parsing import Parser
from runner.parsing import positive
from runner.record import write_aside

# The networks of which there are published PyTorch weights.
PYTORCH = ("preact_resnet18", "wide_resnet28_10", "wide_resnet34_10")
DATASETS = ("digits", "cifar10", "cifar100", "tiny_imagenet", "folder")


def parse_args(
    argv: list[str] | None = None,
) -> tuple[Parser, argparse.Namespace]:
    """The parser, and the flags."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    add("--no-normalisation", action="store_true", help="pixels in [0, 1] as "
        "they are, as TRADES has it")
    add = parser.add_argument_group("images").add_argument
    add("--dataset", choices=DATASETS, default="cifar10")
    add("--data-dir", type=pathlib.Path)
    add("--test-limit", type=at_least(1), help="number of test images")
    add("--batch-size", type=at_least(1), default=128)
    add = parser.add_argument_group("analysis").add_argument
    add("--mode", choices=("class", "instance"), default="class", help="of the "
        "matrix: mean vectors of classes, or nearest images")
    add("--attack", choices=("pgd", "none"), default="pgd")
    add("--norm", choices=("linf", "l2"), default="linf")
    add("--epsilon", type=positive, help="radius; default: the usual one")
    add("--steps", type=at_least(1), default=20)
    add("--seed", type=at_least(0), default=0, help="of the attack")
    add("--out", type=pathlib.Path, default=pathlib.Path("analysis"),
        help="folder to write (analysis)")
    # fmt: on
    args = parser.parse_args(argv)
    path = args.network or args.pytorch
    if not path.is_file():
        parser.error(f"there is no file {path}.")
    if args.epsilon is None:
        usual = digits if args.dataset == "digits" else cifar10
        args.epsilon = usual.DEFAULTS["epsilons"][args.norm]
    return parser, args


def load_network(args: argparse.Namespace, splits: Any) -> Any:
    """The network of either flag.

    Raises:
        ValueError: The file is not what it should be, or does not fit.
    """
    from runner import parts

    import keras_wake as kw

    if args.network:
        network = parts.load_network("--network", args.network)
        parts.check_fits("--network", network, splits)
        return network
    extra: dict[str, Any] = {}
    if args.no_normalisation:
        extra = {"mean": 0.0, "std": 1.0}
    if args.model == "preact_resnet18":
        extra |= {"width": args.width, "final_norm": not args.no_final_norm}
    make = {
        "preact_resnet18": kw.models.PreActResNet18,
        "wide_resnet28_10": kw.models.WideResNet28_10,
        "wide_resnet34_10": kw.models.WideResNet34_10,
    }[args.model]
    network = make(splits.num_classes, splits.input_shape, **extra)
    kw.models.load_pytorch_weights(network, args.pytorch)
    return network


def analyse(args: argparse.Namespace, network: Any, splits: Any) -> None:
    """Prints the report, and writes figures and JSON."""
    import keras_wake as kw

    attack = None
    if args.attack == "pgd":
        attack = kw.attacks.PGD(
            args.norm,
            args.epsilon,
            step_size=args.epsilon / (4 if args.norm == "linf" else 8),
            steps=args.steps,
        )
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
        "mode_cas": None if math.isnan(cas) else cas,
        "mode_matrix": [
            [None if math.isnan(value) else float(value) for value in row]
            for row in matrix
        ],
        **report.to_dict(),
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_aside(
        args.out / "report.json", lambda path: path.write_text(text + "\n")
    )
    print(f"Figures and report.json are in {args.out}.")


def main(argv: list[str] | None = None) -> None:
    """Loads network and images, and analyses."""
    parser, args = parse_args(argv)
    import keras_wake as kw

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
        network = load_network(args, splits)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    analyse(args, network, splits)


if __name__ == "__main__":
    main()

"""Adversarial training at several radii: how CAS falls, and how much.

    python examples/epsilon_sweep.py --example cifar10 --epsilons 8 12 16
    python examples/epsilon_sweep.py --example digits --epsilons 19 38 57

One run of the example for each radius (in grey levels, or pixel units times
255), then the table of CAS and robust accuracy at an early, the best and the
last epoch. Flags that it does not know go to the example. A sweep that was
broken off continues with the same command.
"""

import argparse
import pathlib
import subprocess
import sys

import tables

HERE = pathlib.Path(__file__).parent


def parse_args(
    argv: list[str] | None = None,
) -> tuple[argparse.Namespace, list[str]]:
    """The flags of the sweep, and those of the example."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--example", default="cifar10", help="script that trains")
    add("--method", default="at", help="one of the example's")
    add("--epsilons", nargs="+", type=float, default=[8, 12, 16])
    add("--early", type=int, default=10, help="first epoch of the table")
    add("--run-dir", type=pathlib.Path, default=pathlib.Path("runs/epsilon"))
    args, others = parser.parse_known_args(argv)
    if not (HERE / f"{args.example}.py").is_file():
        parser.error(f"argument --example: there is no {args.example}.py")
    if min(args.epsilons) <= 0:
        parser.error("argument --epsilons: must be above 0")
    return args, others


def command(
    args: argparse.Namespace, others: list[str], epsilon: float
) -> list[str] | None:
    """What trains at one radius; None if that has been done."""
    run_dir = args.run_dir / f"{args.method}-epsilon{epsilon:g}"
    if (run_dir / "robust.keras").exists():
        return None
    resume = ["--resume"] if (run_dir / "record.json").exists() else []
    return [
        sys.executable,
        str(HERE / f"{args.example}.py"),
        f"--method={args.method}",
        f"--epsilon={epsilon / 255!r}",
        f"--run-dir={run_dir}",
        *others,
        *resume,
    ]


def main(argv: list[str] | None = None) -> None:
    """Trains what is missing, and prints the tables."""
    args, others = parse_args(argv)
    for epsilon in args.epsilons:
        run = command(args, others, epsilon)
        if run is not None:
            print(f"\nepsilon {epsilon:g}/255", flush=True)
            status = subprocess.run(run, check=False).returncode
            if status:
                sys.exit(status)
    print()
    tables.main(
        [str(args.run_dir), "--by", "epsilon", "--early", str(args.early)]
    )


if __name__ == "__main__":
    main()

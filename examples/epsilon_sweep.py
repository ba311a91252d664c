"""Trains at several radii, and shows how much CAS falls.

    python examples/epsilon_sweep.py --example cifar10 --epsilons 8 12 16
    python examples/epsilon_sweep.py --example digits --epsilons 19 38 57

Runs the example once for each radius (in grey levels: pixel units times 255)
and seed, then prints CAS and robust accuracy at an early, the best and the last
epoch. Unknown flags are passed to the example. An interrupted sweep continues
with the same command.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
from typing import Any

import tables
from runner import flags
from runner import settings
from runner.parsing import at_least
from runner.parsing import Parser
from runner.parsing import positive

HERE = pathlib.Path(__file__).parent
# The scripts that train a method of the runner.
EXAMPLES = ("cifar10", "cifar100", "cifar10_deit", "digits", "tiny_imagenet")
# Flags of the example that the sweep sets itself, and its own for them.
OWN = {"--epsilon": "--epsilons", "--seed": "--seeds", "--resume": None}


def parse_args(argv: Any = None) -> tuple[argparse.Namespace, list[str]]:
    """The flags of the sweep, and those of the example."""
    # `--epsilon` is the example's, and no abbreviation.
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--example", default="cifar10", choices=EXAMPLES)
    add("--method", default="at", help="one of the example's")
    add("--norm", default="linf", choices=("linf", "l2"))
    add("--epsilons", nargs="+", type=positive, default=[8.0, 12.0, 16.0])
    add("--seeds", nargs="+", type=at_least(0), default=[0])
    add("--early", type=at_least(1), default=10, help="epoch of the table")
    add("--run-dir", type=pathlib.Path, default=pathlib.Path("runs/epsilon"))
    args, others = parser.parse_known_args(argv)
    for flag in others:
        name = flag.partition("=")[0]
        if name in OWN:
            advice = f"use {OWN[name]}" if OWN[name] else "leave it out"
            parser.error(f"{name} is set by the sweep: {advice}.")
    return args, others


def folder(args: argparse.Namespace, epsilon: float, seed: int) -> pathlib.Path:
    """The folder of the run with a radius and a seed."""
    radius = repr(epsilon).removesuffix(".0")
    name = f"{args.method}-{args.norm}-epsilon{radius}-seed{seed}"
    return args.run_dir / name


def command(
    args: argparse.Namespace, others: list[str], epsilon: float, seed: int
) -> list[str] | None:
    """The command that trains at one radius; None if that has been done."""
    run_dir = folder(args, epsilon, seed)
    arguments = [
        f"--method={args.method}",
        f"--norm={args.norm}",
        f"--epsilon={epsilon / 255!r}",
        f"--seed={seed}",
        f"--run-dir={run_dir}",
        *others,
    ]
    script = [sys.executable, str(HERE / f"{args.example}.py"), *arguments]
    example = importlib.import_module(args.example)
    # All flags are checked before the first run begins.
    _, parsed = flags.parse_args("", example.DEFAULTS, arguments)
    record_path = run_dir / "record.json"
    if not record_path.exists():
        return script
    try:
        record = json.loads(record_path.read_text())
        tables.check(record)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record_path} is damaged: {error!r}.") from error
    here = flags.settings_of(parsed)
    differing = settings.differences(record["settings"], here)
    if differing:
        raise ValueError(
            f"{run_dir} holds a run with other settings: {differing}. Choose "
            "another --run-dir, or the settings of that run."
        )
    return None if record.get("table") else [*script, "--resume"]


def main(argv: list[str] | None = None) -> None:
    """Trains what is missing, and prints the tables."""
    args, others = parse_args(argv)
    wanted = [(e, seed) for e in args.epsilons for seed in args.seeds]
    try:
        runs = {which: command(args, others, *which) for which in wanted}
    except ValueError as error:
        sys.exit(f"epsilon_sweep.py: error: {error}")
    for (epsilon, seed), run in runs.items():
        if run is not None:
            print(f"\nepsilon {epsilon:g}/255, seed {seed}", flush=True)
            status = subprocess.run(run, check=False).returncode
            if status:
                sys.exit(status)
    print()
    folders = [str(folder(args, *which)) for which in runs]
    tables.main([*folders, "--by", "epsilon", "--early", str(args.early)])


if __name__ == "__main__":
    main()

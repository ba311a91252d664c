"""Trains the runs of the results page that are missing, and reports.

    python benchmarks/evidence.py train --data-dir FOLDER --runs runs/evidence
    python benchmarks/evidence.py report

`train` goes through the list of runs below, a few at a time, each on one CPU
core, and keeps the record of each finished run in
`benchmarks/results/cifar10_small`. After an interruption the same command
continues. On one idle core a run takes 20 to 30 minutes. `report` writes the
tables of `docs/results.md`, between its markers, and its figures, from these
records.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import tables  # noqa: E402  # beside the examples, which are no package

RESULTS = ROOT / "benchmarks" / "results" / "cifar10_small"
# Reports of examples/evaluate.py for networks of these runs.
AUTOATTACK = RESULTS.parent / "autoattack_small"
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"

COMMON = (
    "--model small --limit 3000 --validation 1000 --test-limit 1000 "
    "--augment flip --epochs 60 --eval-every 4 --threads 1"
).split()
AVERAGE = "--decay 0.99 --ema-warmup --peak 0.95"
WAKE = f"{AVERAGE} --start-epoch 16 --end-epoch 20"
ADAPTIVE = f"{AVERAGE} --ramp-epochs 4"
KDSWA = (
    "--robust-teacher {runs}/at-seed3/best.keras "
    "--standard-teacher {runs}/standard-seed3/robust.keras"
)
# The flags of each run by its name. A run comes after those that it needs.
RUNS = {
    **{f"at-seed{s}": f"--method at --seed {s}" for s in range(4)},
    **{f"wake-seed{s}": f"--method wake --seed {s} {WAKE}" for s in range(3)},
    "standard-seed3": "--method standard --seed 3",
    **{
        f"{method}-seed{s}": f"--method {method} --seed {s} {flags}".strip()
        for s in range(2)
        for method, flags in (
            ("wake-adaptive", ADAPTIVE),
            ("kdswa", KDSWA),
            ("trades", ""),
            ("trades-wake", WAKE),
        )
    },
    **{
        f"at-epsilon{e}-seed0": f"--method at --seed 0 --epsilon {e / 255!r}"
        for e in (4, 12, 16)
    },
    "l2-at-seed0": "--method at --seed 0 --norm l2",
    "l2-wake-seed0": f"--method wake --seed 0 --norm l2 {WAKE}",
    "label-smoothing-seed0": "--method label-smoothing --seed 0",
}
NEEDS = {
    name: ("at-seed3", "standard-seed3") for name in RUNS if "kdswa" in name
}
# Figures of a run that the page shows.
KEPT = {"at-seed3": ("correlation_epochs.png", "correlation_difference.png")}


def command(name: str, data_dir: pathlib.Path, runs: pathlib.Path) -> list[str]:
    """The command that trains a run, or continues it."""
    resume = ["--resume"] * (runs / name / "record.json").exists()
    return [
        sys.executable,
        str(ROOT / "examples" / "cifar10.py"),
        *RUNS[name].format(runs=runs).split(),
        *COMMON,
        f"--data-dir={data_dir}",
        f"--run-dir={runs / name}",
        *resume,
    ]


def keep(name: str, runs: pathlib.Path) -> None:
    """Copies the record of a finished run, and its figures for the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(runs / name / "record.json", RESULTS / f"{name}.json")
    for figure in KEPT.get(name, ()):
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs / name / figure, IMAGES / f"{name}-{figure}")


def is_kept(name: str) -> bool:
    """Whether the record of a run is among the results."""
    return (RESULTS / f"{name}.json").exists()


def train(names: list[str], args: argparse.Namespace) -> int:
    """Trains what has no record yet; returns how many runs failed."""
    waiting = [name for name in names if not is_kept(name)]
    args.runs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen] = {}
    failed: list[str] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    try:
        while waiting or running:
            for name, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status:
                    failed.append(name)
                    print(f"{name}: failed, see {args.runs / name}.log")
                else:
                    keep(name, args.runs)
                    print(f"{name}: finished", flush=True)
            ready = [
                name
                for name in waiting
                if all(
                    (args.runs / need / "robust.keras").exists()
                    and need not in running
                    for need in NEEDS.get(name, ())
                )
            ]
            if ready and len(running) < args.jobs:
                name = ready[0]
                waiting.remove(name)
                print(f"{name}: started", flush=True)
                with open(args.runs / f"{name}.log", "a") as log:
                    running[name] = subprocess.Popen(
                        command(name, args.data_dir, args.runs),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                    )
                continue
            if waiting and not running and not ready:
                print(
                    f"Not trained, for want of {NEEDS[waiting[0]]}, whose "
                    f"networks are not in {args.runs}: {', '.join(waiting)}"
                )
                return len(failed) + len(waiting)
            time.sleep(1)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return len(failed)


def records() -> list[dict]:
    """The records of the page, all of them finished."""
    return tables.read([RESULTS])


def sections(found: list[dict]) -> dict[str, str]:
    """The tables of the page by the names of their markers."""

    def chosen(norm: str, **settings) -> list[list[dict]]:
        return tables.groups(
            [
                record
                for record in found
                if record["settings"]["norm"] == norm
                and all(record["settings"][k] == v for k, v in settings.items())
            ],
            by="epsilon",
        )

    usual, l2 = chosen("linf", epsilon=8 / 255), chosen("l2")
    radii = chosen("linf", method="at")
    return {
        "methods": tables.results(usual),
        "methods-epochs": tables.over_epochs(usual, 8),
        **({"l2": tables.results(l2)} if l2 else {}),
        "epsilon": tables.over_epochs(radii, 8),
        "autoattack": autoattack_table(),
        "runs": runs_table(found),
    }


def autoattack_table() -> str:
    """Accuracy after PGD, and after each attack of AutoAttack."""
    rows, header = [], []
    for path in sorted(AUTOATTACK.glob("*-standard.json")):
        name = path.stem.removesuffix("-standard")
        standard = json.loads(path.read_text())
        pgd = json.loads((AUTOATTACK / f"{name}-pgd.json").read_text())
        left = [
            ("clean", standard["clean_accuracy"]),
            *((a["name"], a["accuracy"]) for a in pgd["attacks"]),
            *((a["name"], a["accuracy"]) for a in standard["attacks"]),
        ]
        header = ["network", "images", *(name for name, _ in left), "date"]
        rows.append(
            [
                name,
                str(standard["samples"]),
                *(f"{100 * accuracy:.1f}" for _, accuracy in left),
                standard["date"][:10],
            ]
        )
    return tables.table(header, rows)


def runs_table(found: list[dict]) -> str:
    """When, on which device and at which commit each run was made."""
    rows = [
        [
            record["settings"]["method"],
            tables.epsilon_of([record]),
            str(record["settings"]["seed"]),
            record["started"],
            f"{record['seconds'] / 60:.0f}",
            record["device"],
            record["commit"][:7],
        ]
        for record in sorted(found, key=lambda record: record["started"])
    ]
    header = ["method", "threat", "seed", "started", "minutes", "device"]
    return tables.table([*header, "commit"], rows)


def filled(page: str, parts: dict[str, str]) -> str:
    """The page with its tables made from the records.

    Raises:
        ValueError: The page lacks the marker of a table, or has an unknown
            one.
    """
    pattern = re.compile(
        r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.S
    )
    names = [name for _, name, _ in pattern.findall(page)]
    if sorted(names) != sorted(parts):
        raise ValueError(
            f"The page has the tables {names}; expected {list(parts)}."
        )
    return pattern.sub(lambda m: f"{m[1]}\n{parts[m[2]]}\n\n{m[3]}", page)


def history(record: dict, prefix: str = "val_") -> dict[str, list]:
    """The validated epochs of a record, for `plot_comparison`."""
    rows = [e for e in record["epochs"] if e.get(tables.ROBUST) is not None]
    return {
        "epochs": [row["epoch"] for row in rows],
        "robust": [row[f"{prefix}robust_accuracy"] for row in rows],
        "cas": [row[f"{prefix}cas"] for row in rows],
    }


# Name in the legend: method, and prefix of the keys of the network.
OVERFITTING = {
    "AT": ("at", "val_"),
    "WAKE, student": ("wake", "val_"),
    "WAKE, teacher": ("wake", "val_teacher_"),
}
METHODS = {
    "AT": ("at", "val_"),
    "AT + WAKE": ("wake", "val_teacher_"),
    "AT + WAKE, adaptive": ("wake-adaptive", "val_teacher_"),
    "TRADES": ("trades", "val_"),
    "TRADES + WAKE": ("trades-wake", "val_teacher_"),
}


def draw(found: list[dict]) -> None:
    """The curves of the page, the README and the landing page."""
    from keras_wake import visualization

    keys = {"robust": "val_robust_accuracy", "cas": "val_cas"}

    def figure(name: str, groups: dict[str, list[dict]]) -> None:
        shown = {
            label: [{keys.get(k, k): v for k, v in h.items()} for h in group]
            for label, group in groups.items()
            if group
        }
        IMAGES.mkdir(parents=True, exist_ok=True)
        visualization.plot_comparison(
            shown, keys=tuple(keys.values()), path=IMAGES / f"{name}.png"
        )

    def of(**settings) -> list[dict]:
        return [
            record
            for record in found
            if all(record["settings"][k] == v for k, v in settings.items())
        ]

    for name, networks in (
        ("robust_overfitting", OVERFITTING),
        ("methods", METHODS),
    ):
        figure(
            name,
            {
                label: [
                    history(record, prefix)
                    for record in of(
                        method=method, norm="linf", epsilon=8 / 255
                    )
                ]
                for label, (method, prefix) in networks.items()
            },
        )
    figure(
        "epsilon",
        {
            f"ε = {e}/255": [
                history(record)
                for record in of(method="at", norm="linf", epsilon=e / 255)
            ]
            for e in (4, 8, 12, 16)
        },
    )


def report() -> None:
    """Writes the tables and draws the figures of the page."""
    found = records()
    PAGE.write_text(filled(PAGE.read_text(), sections(found)))
    draw(found)
    missing = [name for name in RUNS if not is_kept(name)]
    print(f"{PAGE}: {len(found)} runs")
    if missing:
        print(f"Not run yet: {', '.join(missing)}")


def main(argv: list[str] | None = None) -> None:
    """Trains or reports."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report", help="tables and figures of the page")
    add = commands.add_parser("train", help="the runs").add_argument
    add("--data-dir", type=pathlib.Path, required=True, help="of CIFAR-10, "
        "with train/CLASS and test/CLASS")  # fmt: skip
    add("--runs", type=pathlib.Path, default=pathlib.Path("runs/evidence"))
    add("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    add("--only", nargs="+", choices=RUNS, metavar="RUN", default=[*RUNS])
    args = parser.parse_args(argv)
    # As with Ctrl-C: the runs end with this program, and continue from their
    # last epoch when it is started again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.command == "report":
        report()
    elif train(args.only, args):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Robust overfitting and its cure: AT against WAKE from records of runs.

Each run is one command, here for seed 0 (three seeds were run); on two CPU
cores it took 25 to 50 minutes:

    python examples/cifar10.py --method wake --seed 0 --model small \\
        --limit 3000 --validation 1000 --test-limit 1000 --augment flip \\
        --epochs 60 --eval-every 4 --decay 0.99 --ema-warmup --peak 0.95 \\
        --start-epoch 16 --end-epoch 20 --data-dir FOLDER --run-dir runs/wake-0

This script reads `record.json` of such runs, prints how far robust accuracy
and CAS fall from their peak, and draws the curves:

    python benchmarks/robust_overfitting.py runs/*/record.json
    python benchmarks/robust_overfitting.py benchmarks/results/cifar10_small/*
"""

import argparse
import json
import pathlib

import numpy as np

# Label in figure and table: method, and prefix of the network's keys.
NETWORKS = {
    "AT": ("at", "val_"),
    "WAKE, student": ("wake", "val_"),
    "WAKE, teacher": ("wake", "val_teacher_"),
}


ROBUST, CLEAN, CAS = "val_robust_accuracy", "val_accuracy", "val_cas"


def number(value):
    """A value of a record, where JSON has null for NaN."""
    return float("nan") if value is None else value


def read(paths):
    """Records by label: a list of histories, one for each seed."""
    records = [json.loads(path.read_text()) for path in paths]
    records.sort(key=lambda record: record["settings"]["seed"])
    histories = {}
    for label, (method, prefix) in NETWORKS.items():
        for record in records:
            if record["settings"]["method"] != method:
                continue
            rows = [e for e in record["epochs"] if "val_accuracy" in e]
            histories.setdefault(label, []).append(
                {
                    "seed": record["settings"]["seed"],
                    # Counted from 1, in records and in `plot_comparison`.
                    "epochs": [row["epoch"] for row in rows],
                    CLEAN: [row[f"{prefix}accuracy"] for row in rows],
                    ROBUST: [row[f"{prefix}robust_accuracy"] for row in rows],
                    CAS: [number(row[f"{prefix}cas"]) for row in rows],
                }
            )
    return records, histories


def table(histories) -> str:
    """Peak and last validation for each seed, and their mean, in Markdown."""
    lines = [
        "| network | seed | robust, peak (epoch) | robust, last | fall | "
        "clean, last | CAS at peak | CAS, last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, runs in histories.items():
        rows = []
        for run in runs:
            peak = int(np.argmax(run[ROBUST]))
            row = [
                100 * run[ROBUST][peak],
                100 * run[ROBUST][-1],
                100 * (run[ROBUST][peak] - run[ROBUST][-1]),
                100 * run[CLEAN][-1],
                run[CAS][peak],
                run[CAS][-1],
            ]
            rows.append(row)
            cells = [f"{value:.1f}" for value in row]
            cells[0] += f" ({run['epochs'][peak]})"
            lines.append(f"| {label} | {run['seed']} | {' | '.join(cells)} |")
        means = [f"**{cell}**" for cell in over_seeds(rows)]
        lines.append(f"| {label} | mean | {' | '.join(means)} |")
    return "\n".join(lines)


def over_seeds(rows) -> list[str]:
    """Mean and standard deviation of each column, as text."""
    means, deviations = np.mean(rows, axis=0), np.std(rows, axis=0)
    pairs = zip(means, deviations, strict=True)
    return [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in pairs]


def test_table(records) -> str:
    """The tables that the runs ended with: test images, mean over seeds."""
    values = {}
    for record in records:
        for row in record["table"] or ():
            key = (record["settings"]["method"], row["network"], row["epoch"])
            measured = 100 * row["clean"], 100 * row["robust"]
            values.setdefault(key, []).append([*measured, number(row["cas"])])
    lines = [
        "| method | network | epoch | clean | robust | CAS |",
        "|---|---|---|---|---|---|",
    ]
    for key, rows in sorted(values.items()):
        lines.append(f"| {' | '.join([*key, *over_seeds(rows)])} |")
    return "\n".join(lines)


def main(argv=None) -> None:
    """Reads the records, prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", nargs="+", type=pathlib.Path)
    parser.add_argument(
        "--figure",
        type=pathlib.Path,
        default=pathlib.Path("robust_overfitting.png"),
    )
    args = parser.parse_args(argv)
    paths = [path for path in args.records if path.suffix == ".json"]
    if not paths:
        names = ", ".join(map(str, args.records))
        parser.error(f"there is no record (*.json) among {names}.")
    records, histories = read(paths)
    print("Validation images (held out of the training data):\n")
    print(table(histories))
    print("\nTest images, best epoch chosen on the validation images:\n")
    print(test_table(records))

    from keras_wake import visualization

    visualization.plot_comparison(
        histories, keys=(ROBUST, CAS), path=args.figure
    )
    print(f"\nFigure: {args.figure}")


if __name__ == "__main__":
    main()

"""Tables of the paper from the records of runs, in Markdown.

    python examples/tables.py runs
    python examples/tables.py runs --by epsilon --early 8

Reads every `record.json` below the folders (or the `.json` files themselves)
and groups runs that differ in nothing but the seed. The first table has
robust and clean accuracy at the best and the last epoch, and CAS; with
`--by`, rows are sorted by that setting. With `--early N` a second table has
CAS and robust accuracy on the validation images at epoch N, at the best and
at the last epoch, as the paper's table over epsilon does.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import numpy as np
from runner.methods import METHODS

# Settings that runs of one row may differ in, and those that only some methods
# look at.
SEED = "seed"
AVERAGE = ("decay", "ema_warmup")
DISTILLATION = ("peak", "final", "temperature")
RAMP = ("start_epoch", "end_epoch")
SEARCH = ("patience", "ramp_epochs")
PRETRAINED = ("robust_weight", "standard_weight", "swa_start")
ROBUST, CAS = "val_robust_accuracy", "val_cas"


def read(paths: list[pathlib.Path]) -> list[dict[str, Any]]:
    """The records below the given folders, or in the given files."""
    files: list[pathlib.Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(path.rglob("record.json"))
            files += found or sorted(path.rglob("*.json"))
        else:
            files.append(path)
    records = []
    for file in files:
        try:
            record = json.loads(file.read_text())
            METHODS[record["settings"]["method"]], record["epochs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{file} is no record of a run: {error!r}", file=sys.stderr)
            continue
        records.append(record)
    return records


def setting_of(record: dict[str, Any]) -> str:
    """All that makes a run of its kind, in a comparable form."""
    settings = dict(record["settings"])
    method = METHODS[settings["method"]]
    unused = [SEED]
    if method.teacher in (None, "kdswa"):
        unused += AVERAGE
    if method.teacher in (None, "average"):
        unused += DISTILLATION
    if method.teacher != "wake":
        unused += RAMP
    if method.teacher != "adaptive":
        unused += SEARCH
    if method.teacher != "kdswa":
        unused += PRETRAINED
    if method.objective not in ("trades", "mart"):
        unused.append("beta")
    if not method.awp:
        unused.append("gamma")
    for name in unused:
        settings.pop(name, None)
    # Not yet known to older records: without it they are what they were.
    known = {k: v for k, v in settings.items() if v not in (None, 0, 0.0)}
    return json.dumps(known, sort_keys=True)


def groups(
    records: list[dict[str, Any]], by: str | None
) -> list[list[dict[str, Any]]]:
    """Runs that differ in the seed alone, in the order of their names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(setting_of(record), []).append(record)

    def order(group: list[dict[str, Any]]) -> tuple[Any, ...]:
        settings = group[0]["settings"]
        first = settings.get(by) if by else None
        return (first is None, first or 0, settings["method"])

    return sorted(found.values(), key=order)


def label(group: list[dict[str, Any]]) -> str:
    """What a row is called: method, and settings that set it apart."""
    settings = group[0]["settings"]
    parts = [settings["method"]]
    if settings.get("label_smoothing"):
        parts.append(f"s = {settings['label_smoothing']:g}")
    return ", ".join(parts)


def epsilon_of(group: list[dict[str, Any]]) -> str:
    """Norm and radius, in grey levels."""
    settings = group[0]["settings"]
    norm = {"linf": "ℓ∞", "l2": "ℓ2"}[settings["norm"]]
    return f"{norm} {settings['epsilon'] * 255:.4g}/255"


def percent(values: list[float | None]) -> str:
    """Mean and deviation over seeds of shares, in percent."""
    return spread([None if v is None else 100 * v for v in values])


def spread(values: list[float | None]) -> str:
    """Mean ± standard deviation; the mean alone of a single value."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    mean = f"{np.mean(known):.1f}"
    if len(known) == 1:
        return mean
    return f"{mean} ± {np.std(known, ddof=1):.1f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(
    group: list[dict[str, Any]], network: str, epoch: str, key: str
) -> list[float | None]:
    """A value of the final table of each run, if it has that row."""
    return [
        row[key]
        for record in group
        for row in record.get("table") or []
        if (row["network"], row["epoch"]) == (network, epoch)
    ]


def results(grouped: list[list[dict[str, Any]]]) -> str:
    """Best and last epoch of every method, on the test images."""
    rows = []
    for group in grouped:
        finished = [record for record in group if record.get("table")]
        networks = sorted(
            {row["network"] for record in finished for row in record["table"]}
        )
        for network in networks:
            rows.append(
                [
                    label(group),
                    epsilon_of(group),
                    network,
                    str(len(finished)),
                    *(
                        percent(cells(finished, network, epoch, key))
                        for key in ("robust", "clean")
                        for epoch in ("best", "last")
                    ),
                    *(
                        spread(cells(finished, network, epoch, "cas"))
                        for epoch in ("best", "last")
                    ),
                ]
            )
    header = ["method", "threat", "network", "seeds"]
    header += ["robust, best", "robust, last", "clean, best", "clean, last"]
    header += ["CAS, best", "CAS, last"]
    return table(header, rows)


def at_epochs(
    record: dict[str, Any], early: int
) -> list[dict[str, Any] | None]:
    """The validated epochs nearest to `early` from above, best, and last."""
    rows = [row for row in record["epochs"] if row.get(ROBUST) is not None]
    if not rows:
        return [None, None, None]
    first = next((row for row in rows if row["epoch"] >= early), None)
    return [first, max(rows, key=lambda row: row[ROBUST]), rows[-1]]


def over_epochs(grouped: list[list[dict[str, Any]]], early: int) -> str:
    """CAS and robust accuracy of the student at three epochs."""
    rows = []
    for group in grouped:
        chosen = [at_epochs(record, early) for record in group]
        row = [label(group), epsilon_of(group), str(len(group))]
        for column in zip(*chosen, strict=True):
            known = [entry for entry in column if entry is not None]
            row.append(
                f"{spread([entry.get(CAS) for entry in known])} / "
                f"{percent([entry[ROBUST] for entry in known])}"
            )
        rows.append(row)
    header = ["method", "threat", "seeds", f"epoch {early}", "best", "last"]
    return table(header, rows)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    parser.add_argument("--by", choices=("epsilon", "epochs", "method"))
    parser.add_argument("--early", type=int, metavar="EPOCH")
    args = parser.parse_args(argv)
    missing = [str(path) for path in args.paths if not path.exists()]
    if missing:
        parser.error(f"there is nothing at {', '.join(missing)}")
    grouped = groups(read(args.paths), args.by)
    if not grouped:
        parser.error("there is no record of a run in these paths")
    print("Test images; the best epoch was chosen on validation images.\n")
    print(results(grouped))
    if args.early:
        print("\nCAS / robust accuracy of the student, validation images.\n")
        print(over_epochs(grouped, args.early))


if __name__ == "__main__":
    main()

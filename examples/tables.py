"""Tables of the paper from the records of runs, in Markdown.

    python examples/tables.py runs
    python examples/tables.py runs --by epsilon --early 8

Reads every `record.json` below the folders (or the `.json` files themselves)
and groups runs that differ in nothing but the seed. A row names the settings
in which it differs from other rows. The first table has robust and clean
accuracy at the best and the last epoch, and CAS; with `--by`, rows are sorted
by that setting. With `--early N` a second table has CAS and robust accuracy on
the validation images at epoch N, at the best and at the last epoch, as the
paper's table over epsilon does.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
from runner import settings as of_runs
from runner.methods import METHODS
from runner.parsing import at_least
from runner.parsing import Parser

Record = dict[str, Any]
Group = list[Record]
ROBUST, CAS = "val_robust_accuracy", "val_cas"
EPOCHS = ("best", "last")
NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
# What has a column of its own, or is the same in all rows of a group.
NAMED = ("method", "norm", "epsilon", "seed")
OF_THE_METHOD = ("beta", "cutmix", "gamma", "label_smoothing")
CLEAN_NOTE = "† CAS of clean images, on which the method trains."


def read(paths: list[pathlib.Path]) -> list[Record]:
    """The records below the given folders, or in the given files.

    A file that is not a record is named on the standard error output.
    """
    files: list[pathlib.Path] = []
    for path in paths:
        found = sorted(path.rglob("record.json"))
        files += found or sorted(path.rglob("*.json")) or [path]
    records = []
    for file in files:
        try:
            record = json.loads(file.read_text())
            check(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{file} is no record of a run: {error!r}", file=sys.stderr)
            continue
        records.append(record)
    return records


def check(record: Any) -> None:
    """Raises an error unless a record has all that the tables need."""
    settings = record["settings"]
    METHODS[settings["method"]], NORMS[settings["norm"]]
    numbers = [settings[name] for name in ("seed", "epochs", "epsilon")]
    for row in record["epochs"]:
        numbers += [row["epoch"], row.get(ROBUST), row.get(CAS)]
    for row in record.get("table") or ():
        row["epoch"], row["network"]
        numbers += [row[key] for key in ("robust", "clean", "cas")]
    for value in numbers:
        if value is not None and not isinstance(value, (int, float)):
            raise TypeError(f"expected a number. Received: {value!r}")


def setting_of(record: Record) -> str:
    """The settings of a run, in a form that can be compared."""
    settings = of_runs.comparable(record["settings"])
    del settings["seed"]
    # Older records lack what is None or 0.
    known = {k: _plain(v) for k, v in settings.items() if v not in (None, 0)}
    return json.dumps(known, sort_keys=True)


def _plain(value: Any) -> Any:
    """1000 for 1000.0, because some flags turn integers into floats."""
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def one_per_seed(records: list[Record]) -> list[Record]:
    """The longest of the runs that have the same settings and seed.

    A copy of a file, or a second try, must not count as a second seed. Of two
    finished runs the later one counts.
    """

    def progress(record: Record) -> tuple[Any, ...]:
        started = str(record.get("started", ""))
        return bool(record.get("table")), len(record["epochs"]), started

    found: dict[tuple[str, Any], Record] = {}
    for record in records:
        key = setting_of(record), record["settings"]["seed"]
        found[key] = max(found.get(key, record), record, key=progress)
    return list(found.values())


def groups(records: list[Record], by: str | None) -> list[Group]:
    """Groups of runs that differ only in the seed, sorted by `by`."""
    found: dict[str, Group] = {}
    for record in one_per_seed(records):
        found.setdefault(setting_of(record), []).append(record)

    def order(group: Group) -> tuple[Any, ...]:
        settings = of_runs.comparable(group[0]["settings"])
        value = settings.get(by)
        return value is None, isinstance(value, str), value, settings["method"]

    return sorted(found.values(), key=order)


def differing(grouped: list[Group]) -> list[str]:
    """The settings that are used in two groups and differ between them."""
    shown = [_shown(group) for group in grouped]
    found = []
    for name in sorted(set().union(*shown)):
        values = {
            json.dumps(settings.get(name))
            for settings, group in zip(shown, grouped, strict=True)
            if name not in of_runs.unused(group[0]["settings"])
        }
        if len(values) > 1:
            found.append(name)
    return found


def _shown(group: Group) -> dict[str, Any]:
    """The settings that a row may name; None for a usual value."""
    settings = of_runs.comparable(group[0]["settings"])
    ignored = {*NAMED, *of_runs.unused(settings)}
    usual = of_runs.usual(settings)
    return {
        name: None
        # Zero stands for "without", as None does, in older records.
        if value == 0 or (name in usual and of_runs.same(value, usual[name]))
        else _plain(value)
        for name, value in settings.items()
        if name not in ignored
    }


def labels(grouped: list[Group], by: str | None = None) -> list[str]:
    """The names of the rows: methods, and the settings that tell them apart.

    `by` is always named.
    """
    wanted = sorted({*differing(grouped), *OF_THE_METHOD})
    found = []
    for group in grouped:
        settings = of_runs.comparable(group[0]["settings"])
        shown = _shown(group)
        named = {k: shown[k] for k in wanted if shown.get(k) is not None}
        if by and by not in (*NAMED, *named):
            value = settings.get(by)
            named[by] = "–" if value is None else value
        words = [
            f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}"
            for k, v in named.items()
        ]
        found.append(", ".join([settings["method"], *words]))
    return found


def epsilon_of(group: Group) -> str:
    """Norm and radius, in grey levels."""
    settings = group[0]["settings"]
    return f"{NORMS[settings['norm']]} {settings['epsilon'] * 255:.4g}/255"


def percent(values: list[float | None]) -> str:
    """Mean and deviation over seeds of shares, in percent."""
    return spread([None if v is None else 100 * v for v in values])


def spread(values: list[float | None]) -> str:
    """Mean ± standard deviation; the mean alone of a single value."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    deviation = f" ± {np.std(known, ddof=1):.1f}" if known[1:] else ""
    return f"{np.mean(known):.1f}{deviation}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, with a note if it has a † in it."""
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{CLEAN_NOTE}" if "†" in text else text


def cells(group: Group, network: str, epoch: str, key: str) -> list[Any]:
    """A value of the final table of each run, if it has that row."""
    # Older runs stored the CAS of attacked images.
    only_clean = key == "cas" and _on_clean_images(group)
    return [
        row[key]
        for record in group
        for row in record.get("table") or []
        if (row["network"], row["epoch"]) == (network, epoch)
        and (row.get("cas_images") == "clean" or not only_clean)
    ]


def _on_clean_images(group: Group) -> bool:
    return METHODS[group[0]["settings"]["method"]].on_clean_images


def _dagger(group: Group, text: str) -> str:
    """Marks a CAS that cannot be compared with those of other rows."""
    return f"{text} †" if _on_clean_images(group) and text != "–" else text


def results(grouped: list[Group], by: str | None = None) -> str:
    """Best and last epoch of every method, on the test images."""
    rows = []
    for group, name in zip(grouped, labels(grouped, by), strict=True):
        finished = [record for record in group if record.get("table")]
        networks = {row["network"] for r in finished for row in r["table"]}
        for network in sorted(networks):
            robust, clean, cas = (
                [cells(finished, network, epoch, key) for epoch in EPOCHS]
                for key in ("robust", "clean", "cas")
            )
            rows.append(
                [
                    *(name, epsilon_of(group), network, str(len(finished))),
                    *map(percent, robust + clean),
                    *(_dagger(group, spread(values)) for values in cas),
                ]
            )
    header = ["method", "threat", "network", "seeds"]
    for key in ("robust", "clean", "CAS"):
        header += [f"{key}, {epoch}" for epoch in EPOCHS]
    return table(header, rows)


def at_epochs(record: Record, early: int) -> list[dict[str, Any] | None]:
    """The validated epochs nearest to `early` from above, best, and last."""
    key = METHODS[record["settings"]["method"]].best_by
    rows = [row for row in record["epochs"] if row.get(key) is not None]
    if not rows:
        return [None, None, None]
    first = next((row for row in rows if row["epoch"] >= early), None)
    return [first, max(rows, key=lambda row: row[key]), rows[-1]]


def over_epochs(grouped: list[Group], early: int, by: str | None = None) -> str:
    """CAS and robust accuracy of the student at three epochs."""
    rows = []
    for group, name in zip(grouped, labels(grouped, by), strict=True):
        chosen = [at_epochs(record, early) for record in group]
        row = [name, epsilon_of(group), str(len(group))]
        for column in zip(*chosen, strict=True):
            known = [entry for entry in column if entry is not None]
            cas = spread([entry.get(CAS) for entry in known])
            robust = percent([entry.get(ROBUST) for entry in known])
            row.append(f"{_dagger(group, cas)} / {robust}")
        rows.append(row)
    header = ["method", "threat", "seeds", f"epoch {early}", "best", "last"]
    return table(header, rows)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("paths", nargs="+", type=pathlib.Path)
    add("--by", metavar="SETTING", help="sort rows by it, such as epsilon")
    add("--early", type=at_least(1), metavar="EPOCH")
    args = parser.parse_args(argv)
    missing = [str(path) for path in args.paths if not path.exists()]
    if missing:
        parser.error(f"there is nothing at {', '.join(missing)}")
    records = read(args.paths)
    if not records:
        parser.error("there is no record of a run in these paths")
    known = set().union(*(of_runs.comparable(r["settings"]) for r in records))
    if args.by and args.by not in known:
        parser.error(
            f"argument --by: no run has this setting. Received: {args.by!r}; "
            f"there are {', '.join(sorted(known))}."
        )
    grouped = groups(records, args.by)
    print("Test images; the best epoch was chosen on validation images.\n")
    print(results(grouped, args.by))
    if args.early:
        print("\nCAS / robust accuracy of the student, validation images.\n")
        print(over_epochs(grouped, args.early, args.by))
    counted = sum(map(len, grouped))
    if counted < len(records):
        print(
            f"\n{len(records)} records are of {counted} runs: of the same "
            "settings and seed the one that came furthest counts."
        )
    waiting = [
        f"- {name}, {epsilon_of(group)}, seed {record['settings']['seed']} "
        f"({len(record['epochs'])} of {record['settings']['epochs']} epochs)"
        for group, name in zip(grouped, labels(grouped), strict=True)
        for record in group
        if not record.get("table")
    ]
    if waiting:
        print("\nNot finished, and not in the first table:", *waiting, sep="\n")


if __name__ == "__main__":
    main()

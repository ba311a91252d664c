"""Columns of text for a terminal, and names that are short enough."""

import itertools
from collections.abc import Sequence

from keras_wake.utils.types import Json

LONGEST_NAME = 20
# Above this number of classes only the least accurate ones are listed.
MOST_CLASSES_LISTED = 25


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Columns of one width; those of numbers are aligned to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in "-0123456789" for cell in c[1:]) for c in columns]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """The name, with an ellipsis in its middle where it is too long.

    What tells names apart is at their end as often as at their beginning.
    """
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[-end:]}"


def shorten_all(names: Sequence[str], longest: int = LONGEST_NAME) -> list[str]:
    """The names, shortened so that those that differ still do.

    Where `shorten` takes away what tells them apart, as of the names
    "n0000017_object" and "n0000018_object", what they have in common goes.
    """
    short = [shorten(name, longest) for name in names]
    if len(set(short)) == len(set(names)):
        return short
    start = _letters_in_common(names)
    end = _letters_in_common([name[:start:-1] for name in names])
    return [
        shorten(f"…{name[start : len(name) - end]}{'…' * bool(end)}", longest)
        for name in names
    ]


def _letters_in_common(names: Sequence[str]) -> int:
    """With how many letters all names begin alike."""
    columns = zip(*names, strict=False)
    alike = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return len(list(alike))


def percent(share: float | None) -> str:
    """A share in per cent, a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def class_table(
    classes: Sequence[Json],
    accuracy: str,
    more: dict[str, list[str]] | None = None,
) -> list[str]:
    """Accuracies by class; where there are many, only the lowest.

    Args:
        classes: For each class a dictionary with the keys `name`, `samples`,
            `clean_accuracy` and `robust_accuracy`, which may be None.
        accuracy: Which of the two accuracies decides what is lowest.
        more: Further columns, each with a cell for every class.
    """
    shown, note = list(range(len(classes))), []
    if len(classes) > MOST_CLASSES_LISTED:
        known = [i for i in shown if classes[i][accuracy] is not None]
        known.sort(key=lambda i: classes[i][accuracy])
        shown = known[:MOST_CLASSES_LISTED]
        note = [
            f"the {len(shown)} of {len(classes)} classes with the lowest "
            f"{accuracy.replace('_', ' ')}"
        ]
    more = more or {}
    names = shorten_all([each["name"] for each in classes])
    rows = [
        [
            names[i],
            str(classes[i]["samples"]),
            percent(classes[i]["clean_accuracy"]),
            percent(classes[i]["robust_accuracy"]),
            *(column[i] for column in more.values()),
        ]
        for i in shown
    ]
    return note + table(["class", "samples", "clean", "robust", *more], rows)

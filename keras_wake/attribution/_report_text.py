"""A class report as tables for a terminal."""

from typing import Any

# Above this number of classes only the least accurate ones are listed.
MOST_CLASSES_LISTED = 25
LONGEST_NAME = 20


def report_text(report: dict[str, Any]) -> str:
    """The tables of `ClassReport.__str__`.

    Args:
        report: What `ClassReport.to_dict` returns.
    """
    classes = report["classes"]
    largest = len(classes) * (len(classes) - 1)
    cas = report["cas"]
    lines = [
        f"{report['samples']} samples of {len(classes)} classes, "
        + (report["attack"] or "clean images"),
        f"clean accuracy {_percent(report['clean_accuracy'])}, "
        f"robust accuracy {_percent(report['robust_accuracy'])}, "
        f"CAS {'-' if cas is None else f'{cas:.1f}'} of {largest}",
        "",
        *_class_lines(report),
    ]
    if report["pairs"]:
        lines += ["", *_pair_lines(report)]
    return "\n".join(lines)


def _class_lines(report: dict[str, Any]) -> list[str]:
    classes, attacked = report["classes"], report["attack"] is not None
    key = "robust_accuracy" if attacked else "clean_accuracy"
    shown = list(range(len(classes)))
    note = []
    if len(classes) > MOST_CLASSES_LISTED:
        known = [i for i in shown if classes[i][key] is not None]
        known.sort(key=lambda i: classes[i][key])
        shown = known[:MOST_CLASSES_LISTED]
        note = [
            f"the {len(shown)} of {len(classes)} classes with the lowest "
            f"{key.replace('_', ' ')}"
        ]
    rows = [
        [
            _short(classes[i]["name"]),
            str(classes[i]["samples"]),
            _percent(classes[i]["clean_accuracy"]),
            _percent(classes[i]["robust_accuracy"]),
            _most_often_taken_for(report, i),
        ]
        for i in shown
    ]
    header = ["class", "samples", "clean", "robust", "most often taken for"]
    return note + _table(header, rows)


def _most_often_taken_for(report: dict[str, Any], i: int) -> str:
    row = report["confusion"][i]
    others = [j for j in range(len(row)) if j != i and row[j]]
    if not others:
        return "-"
    most = max(others, key=row.__getitem__)
    name = _short(report["classes"][most]["name"])
    return f"{name} ({_percent(row[most] / sum(row))})"


def _pair_lines(report: dict[str, Any]) -> list[str]:
    rows = []
    for pair in report["pairs"]:
        there, back = (
            f"{count} of {report['classes'][i]['samples']}"
            for count, i in zip(
                pair["confusions"], pair["classes"], strict=True
            )
        )
        first, second = map(_short, pair["names"])
        rows.append([f"{pair['cosine']:.2f}", first, second, there, back])
    header = ["cosine", "class i", "class j", "i taken for j", "j taken for i"]
    return ["the pairs that share most features", *_table(header, rows)]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
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


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    return name[: LONGEST_NAME - 1] + "…"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"

"""A class report as tables for a terminal."""

from typing import Any

from keras_wake._tables import percent
from keras_wake._tables import shorten_all
from keras_wake._tables import table

# Above this number of classes only the least accurate ones are listed.
MOST_CLASSES_LISTED = 25


def report_text(report: dict[str, Any]) -> str:
    """The tables of `ClassReport.__str__`.

    Args:
        report: What `ClassReport.to_dict` returns.
    """
    classes = report["classes"]
    names = shorten_all([each["name"] for each in classes])
    lines = [
        f"{report['samples']} samples of {len(classes)} classes, "
        + (report["attack"] or "clean images"),
        f"clean accuracy {percent(report['clean_accuracy'])}, "
        f"robust accuracy {percent(report['robust_accuracy'])}, "
        + _score(report),
        "",
        *_class_lines(report, names),
    ]
    if report["pairs"]:
        lines += ["", *_pair_lines(report, names)]
    return "\n".join(lines)


def _score(report: dict[str, Any]) -> str:
    """CAS, and what it could be at most: an entry without a value adds 0."""
    matrix, cas = report["correlation"], report["cas"]
    without = [i for i, row in enumerate(matrix) if row[i] is None]
    left = len(matrix) - len(without)
    text = "CAS -" if cas is None else f"CAS {cas:.1f} of {left * (left - 1)}"
    if without:
        text += f" ({len(without)} of {len(matrix)} classes left out)"
    return text


def _class_lines(report: dict[str, Any], names: list[str]) -> list[str]:
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
            names[i],
            str(classes[i]["samples"]),
            percent(classes[i]["clean_accuracy"]),
            percent(classes[i]["robust_accuracy"]),
            _most_often_taken_for(report, i, names),
        ]
        for i in shown
    ]
    header = ["class", "samples", "clean", "robust", "most often taken for"]
    return note + table(header, rows)


def _most_often_taken_for(
    report: dict[str, Any], i: int, names: list[str]
) -> str:
    row = report["confusion"][i]
    others = [j for j in range(len(row)) if j != i and row[j]]
    if not others:
        return "-"
    most = max(others, key=row.__getitem__)
    return f"{names[most]} ({percent(row[most] / sum(row))})"


def _pair_lines(report: dict[str, Any], names: list[str]) -> list[str]:
    rows = []
    for pair in report["pairs"]:
        there, back = (
            f"{count} of {report['classes'][i]['samples']}"
            for count, i in zip(
                pair["confusions"], pair["classes"], strict=True
            )
        )
        first, second = (names[i] for i in pair["classes"])
        rows.append([f"{pair['cosine']:.2f}", first, second, there, back])
    header = ["cosine", "class i", "class j", "i taken for j", "j taken for i"]
    return ["the pairs that share most features", *table(header, rows)]

"""A class report as tables for a terminal."""

from typing import Any

import numpy as np

from keras_wake.utils.tables import percent
from keras_wake.utils.tables import shorten_all
from keras_wake.utils.tables import table

# Above this number of classes only the least accurate ones are listed.
MOST_CLASSES_LISTED = 25


def report_text(
    report: dict[str, Any], confusion: np.ndarray, correlation: np.ndarray
) -> str:
    """The tables of `ClassReport.__str__`.

    Args:
        report: What `ClassReport.to_dict` returns, without the matrices.
        confusion: Int64 array (K, K).
        correlation: Float64 array (K, K).
    """
    classes = report["classes"]
    names = shorten_all([each["name"] for each in classes])
    lines = [
        f"{report['samples']} samples of {len(classes)} classes, "
        + (report["attack"] or "clean images"),
        f"clean accuracy {percent(report['clean_accuracy'])}, "
        f"robust accuracy {percent(report['robust_accuracy'])}, "
        + _score(report, correlation),
        "",
        *_class_lines(report, confusion, names),
    ]
    if report["pairs"]:
        lines += ["", *_pair_lines(report, names)]
    return "\n".join(lines)


def _score(report: dict[str, Any], matrix: np.ndarray) -> str:
    """CAS, and what it could be at most: an entry without a value adds 0."""
    cas = report["cas"]
    without = int(np.isnan(np.diagonal(matrix)).sum())
    left = len(matrix) - without
    text = "CAS -" if cas is None else f"CAS {cas:.1f} of {left * (left - 1)}"
    if without:
        text += f" ({without} of {len(matrix)} classes left out)"
    return text


def _class_lines(
    report: dict[str, Any], confusion: np.ndarray, names: list[str]
) -> list[str]:
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
            _most_often_taken_for(confusion[i], i, names),
        ]
        for i in shown
    ]
    header = ["class", "samples", "clean", "robust", "most often taken for"]
    return note + table(header, rows)


def _most_often_taken_for(row: np.ndarray, i: int, names: list[str]) -> str:
    others = row.copy()
    others[i] = 0
    if not others.any():
        return "-"
    most = int(others.argmax())
    return f"{names[most]} ({percent(float(row[most] / row.sum()))})"


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

"""A class report as a figure: accuracy, confusion and shared features."""

import math
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES_NAMED = 20
# In a line below one of the two maps.
LETTERS = 40


def plot_class_report(
    report: Any, path: _figure.FilePath | None = None
) -> "Figure":
    """Draws accuracy, confusion and correlation of the classes of a report.

    Above, clean and robust accuracy of each class, a circle within the square
    where they are equal; the dotted lines are the
    accuracies over all samples. Below on the left, the share of each class
    (row) that is taken for each other (column) under attack. The colours go
    up to the largest share off the diagonal, so that confusions can be seen;
    the diagonal is the accuracy above. Below on the right, the correlation
    matrix in colours from 0 to 1. Where both are bright, shared features go
    with confusion. Above 20 classes only some of them are named.

    Args:
        report: What `keras_wake.attribution.class_report` has returned.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is no class report.

    Example:

    ```python
    report = keras_wake.attribution.class_report(classifier, test, attack)
    keras_wake.visualization.plot_class_report(report, path="classes.png")
    ```
    """
    check_report(report)
    names = report.class_names
    side = _heat_map.size_for(len(names), 4.4, 6.5)
    # Names that do not fit beside each other are slanted.
    top = 2.1 if max(map(len, names)) <= 3 else 2.5
    figure = _figure.new_figure(2 * side + 1.6, side + 0.1 + top)
    above, below = figure.subfigures(
        2, 1, height_ratios=[top, side + 0.1], squeeze=False
    )[:, 0]
    _draw_accuracies(above.add_subplot(), report)
    left, right = below.subplots(1, 2)
    images = "under attack" if report.attack else "on clean images"
    shares = report.confusion / np.maximum(report.counts, 1)[:, None]
    shares[report.counts == 0] = np.nan
    off_diagonal = shares[~np.eye(len(shares), dtype=bool)]
    score = "no CAS" if math.isnan(report.cas) else f"CAS {report.cas:.1f}"
    _draw_map(
        left,
        shares,
        names,
        np.nanmax(off_diagonal, initial=0.0) or 1.0,
        f"confusion {images}",
        ("true class", "predicted class", "share of the true class"),
        "no samples of",
    )
    _draw_map(
        right,
        report.correlation,
        names,
        1.0,
        f"correlation {images}, {score}",
        ("class i", "class j", "cosine similarity of attributions"),
        "no attribution (NaN) for",
    )
    return _figure.save(figure, path)


def _draw_map(
    panel: "Axes",
    values: np.ndarray,
    names: list[str],
    vmax: float,
    title: str,
    labels: tuple[str, str, str],
    missing: str,
) -> None:
    """One heat map.

    Args:
        panel: Where to draw.
        values: Array (K, K).
        names: K names.
        vmax: Value of the brightest colour.
        title: Text above.
        labels: Those of rows, columns and colours.
        missing: What it is that hatched classes have not.
    """
    image = _heat_map.draw(panel, values, 0.0, vmax)
    suffix = _heat_map.name_classes(panel, names, MOST_CLASSES_NAMED)
    extend = _heat_map.extend(values, 0.0, vmax)
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.8, extend=extend)
    bar.set_label(_heat_map.bar_label(labels[2], extend, 0.0), fontsize=8)
    bar.ax.tick_params(labelsize=8)
    panel.set_ylabel(labels[0] + suffix, fontsize=8)
    hatched = _heat_map.missing_text(values, names, missing, LETTERS)
    lines = filter(None, [labels[1] + suffix, hatched])
    panel.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
    _heat_map.write_numbers(panel, image, values)
    panel.set_title(title, fontsize=10)


def check_report(report: Any) -> None:
    """Refuses what is no class report."""
    from keras_wake.attribution import ClassReport

    if not isinstance(report, ClassReport):
        raise TypeError(
            "`report` must be what `keras_wake.attribution.class_report` "
            f"returns. Received: {type(report).__name__}."
        )


def _draw_accuracies(panel: "Axes", report: Any) -> None:
    """Both accuracies of a class as two points on a line."""
    classes = np.arange(len(report.class_names))
    size = 30 if len(classes) <= 30 else 30 * 30 / len(classes)
    robust = report.robust_accuracy
    if robust is not None:
        panel.vlines(
            classes, robust, report.clean_accuracy, color="0.8", linewidth=1
        )
    _points(
        panel,
        report.clean_accuracy,
        report.overall_clean_accuracy,
        _figure.BLUE,
        "clean",
        size,
    )
    if robust is not None:
        # On top and smaller, so that both are seen where they are equal.
        _points(
            panel,
            robust,
            report.overall_robust_accuracy,
            _figure.VERMILLION,
            "robust",
            0.5 * size,
        )
    _heat_map.name_classes(panel, report.class_names, most=30)
    panel.set_yticks(np.linspace(0, 1, 6))
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlim(-0.7, len(classes) - 0.3)
    panel.tick_params(axis="y", labelsize=8)
    _figure.show_percent(panel)
    panel.set_ylabel("accuracy", fontsize=9)
    panel.grid(True, axis="y", color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.figure.legend(loc="outside upper center", ncols=2, fontsize=8)


def _points(
    panel: "Axes",
    values: np.ndarray,
    overall: float,
    color: str,
    name: str,
    size: float,
) -> None:
    panel.scatter(
        np.arange(len(values)),
        values,
        s=size,
        color=color,
        marker="o" if name == "robust" else "s",
        zorder=2,
        label=f"{name}, {100 * overall:.1f} % over all samples",
    )
    panel.axhline(overall, color=color, linewidth=1, linestyle=":")

"""A class report in figures: its numbers, and images of shared features."""

import numpy as np

from keras_wake.attribution.report import ClassReport
from keras_wake.utils import validate
from keras_wake.utils.tables import shorten_all
from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map

# Wider, a line of a page would not hold the images of a pair.
MOST_EXAMPLES = 6


def plot_class_report(
    report: ClassReport, path: _figure.FilePath | None = None
) -> _figure.Figure:
    """Draws accuracy, confusion and correlation of the classes of a report.

    Above, squares are the clean accuracy of the classes, circles their robust
    accuracy, and dotted lines the accuracies over all samples. The left map
    shows which share of each class (row) is taken for each class (column)
    under attack. Its colours end at the largest share off the diagonal, so
    that confusions can be seen. The right map is the correlation matrix. Where
    both maps are bright, classes that share features are confused. Above 25
    classes only some of them are named.

    Args:
        report: What `keras_wake.attribution.class_report` has returned.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is not a class report.

    Example:

    ```python
    report = kw.attribution.class_report(classifier, test, attack)
    kw.visualization.plot_class_report(report, path="classes.png")
    ```
    """
    _figure.check_kind(ClassReport, "attribution.class_report", report=report)
    names = report.class_names
    side = _heat_map.size_for(len(names), 4.4, 6.5)
    # Names that do not fit beside each other are slanted.
    top = 2.1 if max(map(len, names)) <= 3 else 2.5
    figure = _figure.new_figure(2 * side + 1.6, side + 0.1 + top)
    above, below = figure.subfigures(
        2, 1, squeeze=False, height_ratios=[top, side + 0.1]
    )[:, 0]
    _draw_accuracies(above.add_subplot(), report)
    above.legend(loc="outside upper center", ncols=2, fontsize=8)
    images = "under attack" if report.attack else "on clean images"
    shares = report.confusion / np.maximum(report.counts, 1)[:, None]
    shares[report.counts == 0] = np.nan
    highest = np.nanmax(_heat_map.off_diagonal(shares), initial=0.0) or 1.0
    labels = ("true class", "predicted class", "share of the true class")
    left, right = below.subplots(1, 2)
    _heat_map.draw_map(
        left, shares, names, (0.0, highest), labels, "no samples of"
    )
    _heat_map.draw_map(right, report.correlation, names, (0.0, 1.0))
    left.set_title(f"confusion {images}", fontsize=10)
    score = _heat_map.cas_text(report.cas)
    right.set_title(f"correlation {images}, {score}", fontsize=10)
    return _figure.save(figure, path)


def plot_shared_pairs(
    report: ClassReport, pairs: int = 5, path: _figure.FilePath | None = None
) -> _figure.Figure:
    """Draws the class pairs that share most features, with examples.

    One row for each pair, beginning with the largest cosine: on the left
    images of class i that are taken for class j, on the right the other way
    round, as the classifier saw them. The line above says how many there are.
    If there are none, it says "nearest", and the images are those that come
    nearest to being taken for the other class.

    Args:
        report: What `keras_wake.attribution.class_report` has returned, for
            images (H, W, C) with one or three channels. If one of them
            leaves [0, 1], all are scaled by the same factor.
        pairs: How many pairs are drawn. Defaults to `5`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is not a class report.
        ValueError: If the report holds no examples that are images.

    Example:

    ```python
    report = kw.attribution.class_report(classifier, test, attack)
    kw.visualization.plot_shared_pairs(report, path="pairs.png")
    ```
    """
    _figure.check_kind(ClassReport, "attribution.class_report", report=report)
    shown = report.pairs[: validate.integer(1, pairs=pairs)]
    images = [e.adversarial for p in shown for part in p.examples for e in part]
    if not images:
        raise ValueError(
            "The report holds no example images: it was made with "
            "`examples=0` or `pairs=0`, or no two classes have an attribution."
        )
    shape = images[0].shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(
            "Only images of shape (H, W, C) with one or three channels can be "
            f"drawn. Received: a report on images of shape {shape}."
        )
    low, high = np.min(images), np.max(images)
    if low >= -1e-6 and high <= 1 + 1e-6:
        low, high = 0.0, 1.0
    across = max(len(part) for pair in shown for part in pair.examples)
    across = min(across, MOST_EXAMPLES)
    names = shorten_all(report.class_names, 16)
    figure = _figure.new_figure(
        max(1.9 * across + 0.6, 6.0), 1.25 * len(shown) + 0.1
    )
    rows = figure.subfigures(len(shown), 2, squeeze=False, wspace=0.04)
    for row, pair in zip(rows, shown, strict=True):
        text = f"cosine {pair.cosine:.2f}    "
        for half, (true, other), count, examples in zip(
            row,
            (pair.classes, pair.classes[::-1]),
            pair.confusions,
            pair.examples,
            strict=True,
        ):
            text += f"{names[true]} → {names[other]}: {count} of "
            text += str(report.counts[true])
            if any(example.nearest for example in examples):
                text += ", nearest"
            half.suptitle(text, fontsize=8, parse_math=False)
            text = ""
            panels = half.subplots(1, across, squeeze=False)[0]
            for panel in panels:
                panel.axis("off")
            for panel, example in zip(panels, examples, strict=False):
                scaled = (example.adversarial - low) / (high - low)
                _figure.draw_image(panel, scaled)
            if not examples:
                panels[0].text(0, 0.5, "no example", fontsize=8, color="0.4")
    return _figure.save(figure, path)


def _draw_accuracies(panel: _figure.Axes, report: ClassReport) -> None:
    """Both accuracies of a class as two points on a line."""
    classes = np.arange(len(report.class_names))
    size = 30 * min(1, 30 / len(classes))
    clean, robust = report.clean_accuracy, report.robust_accuracy
    shown = [("clean", clean, report.overall_clean_accuracy, "s", size)]
    overall = report.overall_robust_accuracy
    if robust is not None and overall is not None:
        panel.vlines(classes, robust, clean, color="0.8", linewidth=1)
        # On top and smaller, so that both are seen where they are equal.
        shown.append(("robust", robust, overall, "o", 0.5 * size))
    for (name, values, mean, marker, area), color in zip(
        shown, (_figure.BLUE, _figure.VERMILLION), strict=False
    ):
        panel.scatter(
            classes,
            values,
            s=area,
            color=color,
            marker=marker,
            zorder=2,
            label=f"{name}, {100 * mean:.1f} % over all samples",
        )
        panel.axhline(mean, color=color, linewidth=1, linestyle=":")
    _figure.style(panel, axis="y")
    _heat_map.name_classes(panel, report.class_names, most=30)
    panel.tick_params(axis="y", labelsize=8)
    ends = (-0.7, len(classes) - 0.3)
    panel.set(yticks=np.linspace(0, 1, 6), ylim=(-0.03, 1.03), xlim=ends)
    _figure.show_percent(panel)
    panel.set_ylabel("accuracy", fontsize=9)

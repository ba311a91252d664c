"""A robustness report as a figure: accuracy after each attack."""

from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils.tables import shorten
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_robustness_report(
    report: Any, path: _figure.FilePath | None = None
) -> "Figure":
    """Draws the accuracy that each attack of an evaluation has left.

    From left to right the clean accuracy and the accuracy after each attack,
    with their 95 % intervals. The last one is the robust accuracy. Attacks
    run on what the ones before have left, so that no bar is above the one
    before it. Codes of the reliability checks stand in red below the title.

    Args:
        report: What `keras_wake.evaluation.autoattack` or `robust_accuracy`
            has returned.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is no robustness report.

    Example:

    ```python
    report = keras_wake.evaluation.autoattack(classifier, test)
    keras_wake.visualization.plot_robustness_report(report, path="robust.png")
    ```
    """
    from keras_wake.evaluation import RobustnessReport

    if not isinstance(report, RobustnessReport):
        raise TypeError(
            "`report` must be what `keras_wake.evaluation.autoattack` "
            f"returns. Received: {type(report).__name__}."
        )
    names = ["clean", *(attack.name for attack in report.attacks)]
    shares = [report.clean_accuracy, *(a.accuracy for a in report.attacks)]
    ends = [report.clean_interval, *(a.interval for a in report.attacks)]
    figure = _figure.new_figure(max(4.5, 1.2 + 0.95 * len(names)), 3.6)
    panel = figure.add_subplot()
    _draw_bars(panel, names, np.array(shares), np.array(ends))
    panel.set_title(
        f"robust accuracy {100 * report.robust_accuracy:.1f} %, "
        f"{report.norm}, epsilon {report.epsilon:.4g}, "
        f"{report.samples} samples",
        fontsize=10,
        pad=18 if report.findings else 6,
    )
    _figure.show_findings(panel, report.findings)
    return _figure.save(figure, path)


def _draw_bars(
    panel: "Axes", names: list[str], shares: np.ndarray, ends: np.ndarray
) -> None:
    """Bars with whiskers and their values; the first and last stand out."""
    places = np.arange(len(names))
    colors = [_figure.SKY] * len(names)
    colors[0], colors[-1] = _figure.GREY, _figure.BLUE
    panel.bar(places, shares, color=colors, width=0.7)
    whiskers = np.abs(ends.T - shares)
    panel.errorbar(
        places,
        shares,
        yerr=whiskers,
        fmt="none",
        ecolor="0.15",
        elinewidth=1,
        capsize=3,
    )
    for place, share, (_, high) in zip(places, shares, ends, strict=True):
        panel.annotate(
            f"{100 * share:.1f}",
            xy=(place, high),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    labels = [shorten(name, 16) for name in names]
    panel.set_xticks(places, labels, parse_math=False)
    panel.tick_params(labelsize=8)
    if len(names) > 6:
        panel.tick_params(axis="x", rotation=30)
    panel.set_yticks(np.linspace(0, 1, 6))
    panel.set_ylim(0, 1.12)
    _figure.show_percent(panel)
    panel.set_ylabel("accuracy after the attack", fontsize=9)
    panel.grid(True, axis="y", color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)

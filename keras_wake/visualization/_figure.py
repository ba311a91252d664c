"""What the figures share: colours, empty figures, marked epochs, saving.

The colours are those of Okabe and Ito, which readers with the common forms
of colour blindness can tell apart; curves differ in line style as well.
"""

import os
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_wake.utils import validate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREY = "#777777"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#000000")
LINE_STYLES = ("-", "--", "-.", ":")

DPI = 130
FORMATS = (".png", ".pdf", ".svg")
# Above this number of points, markers hide the curve that they are on.
MOST_MARKED_POINTS = 40

FilePath = str | os.PathLike[str]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in inches that arranges its own margins."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Matplotlib's own margin of 0.04 inches lets titles touch the edge.
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def save(figure: "Figure", path: FilePath | None) -> "Figure":
    """Writes the figure to `path`, if one is given, and returns it.

    The file is written beside its final name and then renamed, so that a
    run that is killed leaves the old file or the new one, never half of it.
    """
    if path is None:
        return figure
    target = pathlib.Path(validate.path(path=path))
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"`path` must end in one of {', '.join(FORMATS)}. "
            f"Received: path={str(path)!r}."
        )
    if target.is_dir():
        raise ValueError(
            f"`path` must name a file. Received: path={str(path)!r}, which is "
            "a folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        figure.savefig(beside, format=suffix[1:], dpi=figure.dpi)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return figure


def check_ramp(
    start_epoch: int | None, end_epoch: int | None
) -> dict[str, int]:
    """The given ones of t_s and t_e, under their names in a figure."""
    marks = {}
    if start_epoch is not None:
        start_epoch = validate.integer(0, start_epoch=start_epoch)
        marks["$t_s$"] = start_epoch
    if end_epoch is not None:
        end_epoch = validate.integer(1, end_epoch=end_epoch)
        marks["$t_e$"] = end_epoch
    if (
        start_epoch is not None
        and end_epoch is not None
        and start_epoch >= end_epoch
    ):
        raise ValueError(
            "`start_epoch` must be less than `end_epoch`. Received: "
            f"start_epoch={start_epoch}, end_epoch={end_epoch}."
        )
    return marks


def mark_epochs(axes: Sequence["Axes"], marks: dict[str, int]) -> None:
    """Draws t_s and t_e through all panels; names them above the first.

    An epoch outside the plotted range is left out: it would squeeze the
    curves of a run that has not come that far.
    """
    low, high = axes[0].get_xlim()
    for name, epoch in marks.items():
        if not low <= epoch <= high:
            continue
        for panel in axes:
            panel.axvline(epoch, color="0.35", linewidth=0.9, linestyle=":")
        # The two labels lean away from each other: t_e often follows t_s
        # within a few epochs.
        axes[0].annotate(
            f"{name} = {epoch}",
            xy=(epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if name == "$t_s$" else 2, 3),
            textcoords="offset points",
            ha="right" if name == "$t_s$" else "left",
            fontsize=8,
            color="0.25",
        )


def finish_panels(axes: Sequence["Axes"], epochs: Iterable[float]) -> None:
    """Grid, ticks and range over the epochs, which all panels share."""
    from matplotlib.ticker import MaxNLocator

    values = list(epochs)
    first, last = min(values), max(values)
    # A single epoch needs a range that is not empty.
    margin = 0.02 * (last - first) or 0.5
    for panel in axes:
        panel.grid(True, color="0.9", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_locator(
            MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
    axes[0].set_xlim(first - margin, last + margin)
    axes[-1].set_xlabel("epoch", fontsize=9)


def show_percent(panel: "Axes") -> None:
    """Labels an axis of fractions in per cent."""
    from matplotlib.ticker import PercentFormatter

    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))


def show_findings(panel: "Axes", findings: Iterable[tuple[str, str]]) -> None:
    """Names what makes the numbers doubtful, in red above a panel."""
    codes = list(dict.fromkeys(code for code, _ in findings))
    if codes:
        panel.annotate(
            f"doubtful: {', '.join(codes)}",
            xy=(0.5, 1.0),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=VERMILLION,
        )


def marker_for(points: int) -> str:
    """A marker for a curve of few points: a single one has no line."""
    return "o" if points <= MOST_MARKED_POINTS else ""

"""What the figures share: colours, axes, curves, images, marks, saving.

The colours are those of Okabe and Ito, which readers with the common forms
of colour blindness can tell apart; curves differ in line style as well.
"""

import os
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import NamedTuple
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.checkpoint.files import written_aside
from keras_wake.utils import validate
from keras_wake.utils.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    # Matplotlib is imported by the first figure, not with keras-wake.
    Axes = Figure = object

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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches that arranges its own margins."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Matplotlib's own margin of 0.04 inches lets titles touch the edge.
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def column(figure: Figure, heights: Sequence[float]) -> list[Axes]:
    """Panels below each other, of these relative heights, over one axis."""
    grid = figure.subplots(
        len(heights), sharex=True, squeeze=False, height_ratios=heights
    )
    return list(grid[:, 0])


def save(figure: Figure, path: FilePath | None) -> Figure:
    """Writes the figure to `path`, if one is given, and returns it."""
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
    with written_aside(target) as aside:
        figure.savefig(aside, format=suffix[1:], dpi=figure.dpi)
    return figure


def style(panel: Axes, axis: Literal["both", "y"] = "both") -> None:
    """A grid behind the data, small numbers, no frame above and right."""
    panel.grid(True, axis=axis, color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def style_epochs(axes: Sequence[Axes], epochs: Iterable[float]) -> None:
    """`style`, and ticks and range of the epochs, which all panels share."""
    from matplotlib.ticker import MaxNLocator

    values = list(epochs)
    first, last = min(values), max(values)
    # A single epoch needs a range that is not empty.
    margin = 0.02 * (last - first) or 0.5
    for panel in axes:
        style(panel)
        panel.xaxis.set_major_locator(
            MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
    axes[0].set_xlim(first - margin, last + margin)
    axes[-1].set_xlabel("epoch", fontsize=9)


class Look(NamedTuple):
    """Colour and line style of a curve."""

    color: str
    linestyle: str


def look_of(number: int) -> Look:
    """The look of the curve with this number."""
    return Look(
        PALETTE[number % len(PALETTE)], LINE_STYLES[number % len(LINE_STYLES)]
    )


def draw_curve(
    panel: Axes,
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    label: str,
    look: Look,
    linewidth: float = 1.4,
    markersize: float = 2.5,
) -> None:
    """A curve; one of few points shows them, as a single one has no line."""
    panel.plot(
        x,
        y,
        label=label,
        color=look.color,
        linestyle=look.linestyle,
        linewidth=linewidth,
        marker="o" if len(x) <= MOST_MARKED_POINTS else "",
        markersize=markersize,
    )


def draw_image(panel: Axes, image: Array) -> None:
    """An image (H, W, C) in [0, 1] with one or three channels."""
    grey = image.shape[-1] == 1
    panel.imshow(
        np.clip(image[..., 0] if grey else image, 0.0, 1.0),
        cmap="gray" if grey else None,
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
    )


class Mark(NamedTuple):
    """A vertical line.

    Attributes:
        place: Where on the horizontal axis.
        text: What is written above it.
        ha: `"right"` for a text that ends at the line, `"left"` for one that
            begins there. Two marks are often close to each other.
    """

    place: float
    text: str
    ha: str


def ramp_marks(start_epoch: int | None, end_epoch: int | None) -> list[Mark]:
    """Checks t_s and t_e, and makes marks of those that are given."""
    marks = []
    if start_epoch is not None:
        start_epoch = validate.integer(0, start_epoch=start_epoch)
        marks.append(Mark(start_epoch, f"$t_s$ = {start_epoch}", "right"))
    if end_epoch is not None:
        end_epoch = validate.integer(1, end_epoch=end_epoch)
        marks.append(Mark(end_epoch, f"$t_e$ = {end_epoch}", "left"))
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


def draw_marks(axes: Sequence[Axes], marks: Iterable[Mark]) -> None:
    """Draws lines through all panels and writes their texts above the first.

    Marks outside the range are left out: they would squeeze the curves of a
    run that has not come that far.
    """
    low, high = axes[0].get_xlim()
    for place, text, ha in marks:
        if not low <= place <= high:
            continue
        for panel in axes:
            panel.axvline(place, color="0.35", linewidth=0.9, linestyle=":")
        axes[0].annotate(
            text,
            xy=(place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if ha == "right" else 2, 3),
            textcoords="offset points",
            ha=ha,
            fontsize=8,
            color="0.25",
        )


def show_percent(panel: Axes) -> None:
    """Labels an axis of fractions in per cent."""
    from matplotlib.ticker import PercentFormatter

    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))


def legend_above(figure: Figure, ncols: int, **settings: Any) -> None:
    """A legend over all panels, of all curves unless `handles` are given."""
    figure.legend(
        loc="outside upper center", ncols=ncols, fontsize=8, **settings
    )


def show_findings(panel: Axes, findings: Iterable[tuple[str, str]]) -> None:
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

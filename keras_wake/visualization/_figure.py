"""What the figures share: colours, axes, curves, images, marks, saving.

The colours are those of Okabe and Ito, made for colour-blind readers.
"""

import os
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Literal
from typing import TYPE_CHECKING
from typing import TypeAlias

from keras_wake.checkpoint.files import atomic_write
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
# Colour and line style of a curve.
Look: TypeAlias = tuple[str, str]
# A vertical line: its place, the text above it, and "right" for a text that
# ends at the line or "left" for one that begins there.
Mark: TypeAlias = tuple[float, str, Literal["left", "right"]]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches that arranges its own margins."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Matplotlib's own margin of 0.04 inches lets titles touch the edge.
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def save(figure: Figure, path: FilePath | None) -> Figure:
    """Writes the figure to `path`, if one is given, and returns it."""
    if path is None:
        return figure
    target = pathlib.Path(validate.path(path=path))
    suffix = target.suffix.lower()
    if suffix not in FORMATS or target.is_dir():
        raise ValueError(
            "`path` must name a file, no folder, that ends in one of "
            f"{', '.join(FORMATS)}. Received: path={str(path)!r}."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as aside:
        figure.savefig(aside, format=suffix[1:], dpi=figure.dpi)
    return figure


def check_kind(kind: type, maker: str, **kwargs: object) -> None:
    """Refuses the one argument unless it is what `maker` returns."""
    name, value = validate.name_and_value(kwargs)
    if not isinstance(value, kind):
        raise TypeError(
            f"`{name}` must be what `keras_wake.{maker}` returns. Received: "
            f"{type(value).__name__}."
        )


def style(panel: Axes, axis: Literal["both", "y"] = "both") -> None:
    """A grid behind the data, small numbers, no frame above and right."""
    panel.grid(True, axis=axis, color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def look_of(number: int) -> Look:
    """The look of the curve with this number."""
    color = PALETTE[number % len(PALETTE)]
    return color, LINE_STYLES[number % len(LINE_STYLES)]


def draw_curve(panel: Axes, x: Array, y: Array, label: str, look: Look) -> None:
    """A curve; one of few points shows them, as a single one has no line."""
    panel.plot(
        x,
        y,
        label=label,
        color=look[0],
        linestyle=look[1],
        marker="o" if len(x) <= MOST_MARKED_POINTS else "",
        markersize=2.5,
    )


def draw_image(panel: Axes, image: Array) -> None:
    """An image (H, W, C) in [0, 1] with one or three channels."""
    image = image.clip(0.0, 1.0)
    panel.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def draw_marks(axes: Sequence[Axes], marks: Iterable[Mark]) -> None:
    """Draws the lines within the range, with their texts above the panels."""
    low, high = axes[0].get_xlim()
    above = axes[0].get_xaxis_transform()
    for place, text, ha in marks:
        if low <= place <= high:
            axes[0].text(place, 1.01, text, fontsize=8, ha=ha, transform=above)
            for panel in axes:
                panel.axvline(place, color="0.35", linewidth=0.9, linestyle=":")


def show_percent(panel: Axes) -> None:
    """Labels an axis of fractions in per cent."""
    from matplotlib.ticker import PercentFormatter

    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))

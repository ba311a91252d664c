"""What the figures of (K, K) matrices share: checks, cells, class names.

They can be read with three classes as well as with 200: numbers are written
only where they fit into their cells, names are left out where they would
collide, and the map grows so that a cell stays some pixels wide.
"""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.tables import shorten_all
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.visualization._figure import Axes

if TYPE_CHECKING:
    from matplotlib.image import AxesImage

# Up to here the number fits into its cell.
MOST_CLASSES_WITH_NUMBERS = 12
# Up to here every class can be named at a map of five inches.
MOST_CLASSES_NAMED = 25
# Above it, cells are as small as the distance of two lines of a hatch.
MOST_CLASSES_HATCHED = 20
LONGEST_NAME = 16
# Of the text under a map of 5 inches with names beside it.
LETTERS_IN_A_LINE = 48
COSINE = "cosine similarity of attributions"


def check_matrix(**kwargs: Tensor) -> Array:
    """The one keyword argument as a square array without infinite values."""
    name, value = validate.name_and_value(kwargs)
    values = validate.floats(**kwargs)
    if (
        values.ndim != 2
        or values.shape[0] != values.shape[1]
        or not len(values)
    ):
        raise ValueError(
            f"`{name}` must be square, one row and column per class. "
            f"Received: {name} of shape {np.shape(value)}."
        )
    if np.isinf(values).any():
        raise ValueError(
            f"`{name}` must not hold infinite values. "
            f"Received {int(np.isinf(values).sum())} of them."
        )
    return values


def check_limits(vmin: float, vmax: float) -> tuple[float, float]:
    """The values of the darkest and the brightest colour."""
    vmin, vmax = validate.real(vmin=vmin), validate.real(vmax=vmax)
    if vmin >= vmax:
        raise ValueError(
            "`vmin` must be less than `vmax`. "
            f"Received: vmin={vmin}, vmax={vmax}."
        )
    return vmin, vmax


def cas_text(score: float, mark: str = " ") -> str:
    """ "CAS 1.2", or that there is none; `mark` is put in the middle."""
    return "no CAS" if math.isnan(score) else f"CAS{mark}{score:.1f}"


def size_for(classes: int, smallest: float, largest: float) -> float:
    """Inches of a map: at 130 dots an inch and 200 classes it is `largest`."""
    return min(max(smallest, largest * classes / 200), largest)


def draw_map(
    panel: Axes,
    values: Array,
    names: list[str],
    limits: tuple[float, float],
    labels: tuple[str, str, str] = ("class i", "class j", COSINE),
    *,
    most_named: int = MOST_CLASSES_NAMED,
    missing: str = "no attribution (NaN) for",
    letters: int = LETTERS_IN_A_LINE,
    cmap: str = "viridis",
    bar: bool = True,
    shrink: float = 0.85,
) -> None:
    """A heat map with its colour bar, class names and numbers.

    Args:
        panel: Where to draw.
        values: Array (K, K).
        names: K names.
        limits: Values of the darkest and the brightest colour.
        labels: Those of rows, columns and colours.
        most_named: How many classes are named at most.
        missing: What classes without a value lack.
        letters: How many letters fit in a line below the map.
        cmap: Name of the colours.
        bar: Whether there is a colour bar.
        shrink: Height of the bar, in heights of the map.
    """
    image = draw_cells(panel, values, limits, cmap)
    if bar:
        draw_bar([panel], image, values, labels[2], shrink)
    suffix = name_classes(panel, names, most_named)
    panel.set_ylabel(labels[0] + suffix, fontsize=8)
    below = missing_text(values, names, missing, letters)
    lines = filter(None, [labels[1] + suffix, below])
    panel.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
    _write_numbers(panel, image, values)


def draw_cells(
    panel: Axes,
    values: Array,
    limits: tuple[float, float],
    cmap: str = "viridis",
) -> "AxesImage":
    """The cells; those without a value (NaN) are grey, hatched if few."""
    image = panel.imshow(
        np.ma.masked_invalid(values),
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    # Masked cells are transparent, so the background shows there.
    if len(values) <= MOST_CLASSES_HATCHED:
        panel.patch.set(facecolor="0.88", edgecolor="0.6", hatch="////")
    else:
        panel.patch.set(facecolor="0.75")
    return image


def look_of_missing(values: Array) -> str:
    """How `draw_cells` shows cells without a value."""
    return "hatched" if len(values) <= MOST_CLASSES_HATCHED else "grey"


def draw_bar(
    axes: list[Axes],
    image: "AxesImage",
    values: Array,
    label: str,
    shrink: float = 0.85,
    aspect: float = 20,
) -> None:
    """A colour bar with an arrow at each end that values lie beyond."""
    vmin, vmax = image.get_clim()
    # Comparisons with NaN are false, so missing cells do not count. The
    # tolerance is for a diagonal of 1 that was computed in float32.
    below = bool((values < vmin - 1e-6).any())
    above = bool((values > vmax + 1e-6).any())
    extend = ("neither", "max", "min", "both")[2 * below + above]
    bar = axes[0].figure.colorbar(
        image, ax=axes, extend=extend, shrink=shrink, aspect=aspect
    )
    # Colours that diverge from 0 are clipped at both ends alike.
    if below and image.get_cmap().name == "viridis":
        label = f"{label}, clipped at {vmin:g}"
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def name_classes(
    panel: Axes,
    names: list[str],
    most: int = MOST_CLASSES_NAMED,
    long_below: bool = True,
) -> str:
    """Names the classes, or every 5th, 10th, … of them, on both axes.

    Args:
        panel: What was drawn on.
        names: K names.
        most: How many are named at most.
        long_below: Whether long names are written below the map as well.

    Returns:
        What to add to the label of an axis: which classes are named, or an
        empty text.
    """
    classes = len(names)
    every = 1
    if classes > most:
        every = math.ceil(classes / most)
        # Steps of 5, 10, … make a class between two labels easy to count.
        every = 5 * math.ceil(every / 5)
    shown = list(range(0, classes, every))
    short = shorten_all(names, LONGEST_NAME)
    labels = [short[index] for index in shown]
    size = 8 if len(shown) <= MOST_CLASSES_WITH_NUMBERS else 6.5
    is_long = max(len(label) for label in labels) > 3
    panel.set_xticks(
        shown,
        labels if long_below or not is_long else [],
        fontsize=size,
        rotation=45 if is_long else 0,
        ha="right" if is_long else "center",
        rotation_mode="anchor" if is_long else "default",
        parse_math=False,
    )
    panel.set_yticks(shown, labels, fontsize=size, parse_math=False)
    return f" (every {every}th is named)" if every > 1 else ""


def _write_numbers(panel: Axes, image: "AxesImage", values: Array) -> None:
    """Writes the values into their cells, if there are few enough."""
    if len(values) > MOST_CLASSES_WITH_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        luminance = 0.299 * red + 0.587 * green + 0.114 * blue
        panel.text(
            column,
            row,
            # Without the addition, -0.001 would read -0.00.
            f"{round(float(value), 2) + 0.0:.2f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="black" if luminance > 0.5 else "white",
        )


def missing_text(
    values: Array,
    names: list[str],
    what: str = "no attribution (NaN) for",
    letters: int = LETTERS_IN_A_LINE,
) -> str:
    """Which classes have no value, to be put under the map; empty if none.

    Two or three lines at most: as many names as there is room for.
    """
    missing = np.isnan(values)
    if not missing.any():
        return ""
    look = look_of_missing(values)
    whole = np.flatnonzero(missing.all(axis=1)).tolist()
    if not len(whole):
        text = f"{look}: {int(missing.sum())} cells without a value (NaN)"
        return textwrap.fill(text, letters)
    # A name must not be broken at a space of its own.
    short = [
        name.replace(" ", "\N{NO-BREAK SPACE}")
        for name in shorten_all(names, LONGEST_NAME)
    ]
    room = 2 * letters - len(f"{look}: {what} and 100 more")
    listed = [short[whole[0]]]
    for i in whole[1:]:
        if len(", ".join([*listed, short[i]])) > room:
            break
        listed.append(short[i])
    more = len(whole) - len(listed)
    tail = f" and\N{NO-BREAK SPACE}{more}\N{NO-BREAK SPACE}more" if more else ""
    return textwrap.fill(f"{look}: {what} {', '.join(listed)}{tail}", letters)

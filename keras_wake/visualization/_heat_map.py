"""What the figures of (K, K) matrices share: checks, cells, class names.

They can be read with 200 classes as well: numbers are written only where they
fit into their cells, and names are left out where they would collide.
"""

import math
import textwrap
from typing import Any
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
# Of the text under a map with names beside it.
LETTERS_IN_A_LINE = 48
COSINE = "cosine similarity of attributions"


def check_matrix(**kwargs: Tensor) -> Array:
    """The one keyword argument as a square array without infinite values."""
    (name,) = kwargs
    values = validate.floats(**kwargs)
    infinite = int(np.isinf(values).sum())
    is_square = values.ndim == 2 and values.shape[0] == values.shape[1] > 0
    if not is_square or infinite:
        raise ValueError(
            f"`{name}` must be square, one row and column per class, without "
            f"infinite values. Received: {name} of shape {values.shape}, with "
            f"{infinite} infinite values."
        )
    return values


def off_diagonal(values: Array) -> Array:
    """The entries for two different classes."""
    return values[~np.eye(len(values), dtype=bool)]


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
    missing: str = "no attribution (NaN) for",
    cmap: str = "viridis",
) -> None:
    """A heat map with its colour bar, class names and numbers.

    The labels are those of rows, columns and colours; `missing` says what
    classes without a value lack.
    """
    image = draw_cells(panel, values, limits, cmap)
    # No bar for the diagonal alone, whose value is known.
    if np.isfinite(off_diagonal(values)).any():
        draw_bar([panel], image, values, labels[2])
    suffix = name_classes(panel, names)
    panel.set_ylabel(labels[0] + suffix, fontsize=8)
    below = missing_text(values, names, missing)
    lines = filter(None, [labels[1] + suffix, below])
    panel.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
    if len(values) > MOST_CLASSES_WITH_NUMBERS:
        return
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        # How bright the eye sees it.
        light = np.dot(image.to_rgba(value)[:3], (0.299, 0.587, 0.114))
        panel.text(
            column,
            row,
            # Without the addition, -0.001 would read -0.00.
            f"{round(value, 2) + 0.0:.2f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="black" if light > 0.5 else "white",
        )


def draw_cells(
    panel: Axes,
    values: Array,
    limits: tuple[float, float],
    cmap: str = "viridis",
) -> "AxesImage":
    """The cells; those without a value (NaN) are grey, hatched if few."""
    # Masked cells are transparent, so the background shows there.
    if look_of_missing(values) == "hatched":
        panel.patch.set(facecolor="0.88", edgecolor="0.6", hatch="////")
    else:
        panel.patch.set(facecolor="0.75")
    cells, (vmin, vmax) = np.ma.masked_invalid(values), limits
    return panel.imshow(
        cells, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest"
    )


def look_of_missing(values: Array) -> str:
    """How `draw_cells` shows cells without a value."""
    return "hatched" if len(values) <= MOST_CLASSES_HATCHED else "grey"


def draw_bar(
    axes: list[Axes],
    image: "AxesImage",
    values: Array,
    label: str,
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
        image, ax=axes, extend=extend, shrink=0.85, aspect=aspect
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
    """Names at most `most` classes, or every 5th, 10th, … on both axes.

    Long names are written below the map as well if `long_below`. Returns what
    to add to the label of an axis: which classes are named.
    """
    # Steps of 5, 10, … make a class between two labels easy to count.
    step = 1 if len(names) <= most else 5 * math.ceil(len(names) / most / 5)
    shown = range(0, len(names), step)
    labels = shorten_all(names, LONGEST_NAME)[::step]
    size = 8 if len(shown) <= MOST_CLASSES_WITH_NUMBERS else 6.5
    panel.set_yticks(shown, labels, fontsize=size, parse_math=False)
    slant: dict[str, Any] = {}
    if max(map(len, labels)) > 3:
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        labels = labels if long_below else []
    panel.set_xticks(shown, labels, fontsize=size, parse_math=False, **slant)
    return f" (every {step}th is named)" if step > 1 else ""


def missing_text(
    values: Array, names: list[str], what: str = "no attribution (NaN) for"
) -> str:
    """Which classes have no value, to be put under the map; empty if none.

    Two lines at most: as many names as there is room for.
    """
    missing = np.isnan(values)
    if not missing.any():
        return ""
    look = look_of_missing(values)
    whole = np.flatnonzero(missing.all(axis=1))
    if not len(whole):
        return f"{look}: {int(missing.sum())} cells without a value (NaN)"
    # A name must not be broken at a space of its own.
    short = [
        name.replace(" ", "\N{NO-BREAK SPACE}")
        for name in shorten_all(names, LONGEST_NAME)
    ]
    for count in range(min(len(whole), LETTERS_IN_A_LINE), 0, -1):
        text = ", ".join(short[i] for i in whole[:count])
        if count < len(whole):
            text += f" and {len(whole) - count} more"
        lines = textwrap.wrap(f"{look}: {what} {text}", LETTERS_IN_A_LINE)
        if len(lines) <= 2:
            break
    return "\n".join(lines)

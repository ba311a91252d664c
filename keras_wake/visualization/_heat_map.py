"""What the figures of (K, K) matrices share: checks, cells, class names.

They are to be read with three classes as well as with 200: numbers are
written only where they fit into their cells, names are thinned where they
would collide, and the map grows so that a cell stays some pixels wide.
"""

import math
import textwrap
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.tables import shorten_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def check_matrix(**kwargs: Any) -> np.ndarray:
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


def cas_of(values: np.ndarray) -> float:
    """CAS without a warning: the figure says which classes have no value."""
    from keras_wake.attribution.correlation import quiet_cas

    return quiet_cas(values)[0]


def cas_text(values: np.ndarray, mark: str = " ") -> str:
    """ "CAS 1.2", or that there is none; `mark` is put in the middle."""
    score = cas_of(values)
    return "no CAS" if math.isnan(score) else f"CAS{mark}{score:.1f}"


def size_for(classes: int, smallest: float, largest: float) -> float:
    """Inches of a map: at 130 dots an inch and 200 classes it is `largest`."""
    return min(max(smallest, largest * classes / 200), largest)


def draw(
    panel: "Axes",
    values: np.ndarray,
    vmin: float,
    vmax: float,
    cmap: str = "viridis",
) -> "AxesImage":
    """The cells; those without a value (NaN) are grey, hatched if few."""
    image = panel.imshow(
        np.ma.masked_invalid(values),
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
        interpolation="nearest",
    )
    # Masked cells are transparent, so the background shows there.
    if len(values) <= MOST_CLASSES_HATCHED:
        panel.patch.set(facecolor="0.88", edgecolor="0.6", hatch="////")
    else:
        panel.patch.set(facecolor="0.75")
    return image


def look_of_missing(values: np.ndarray) -> str:
    """How `draw` shows cells without a value."""
    return "hatched" if len(values) <= MOST_CLASSES_HATCHED else "grey"


def extend(values: np.ndarray, vmin: float, vmax: float) -> str:
    """At which ends of the colour bar values lie beyond it."""
    # Comparisons with NaN are false, so missing cells do not count. The
    # tolerance is for a diagonal of 1 that was computed in float32.
    below = bool((values < vmin - 1e-6).any())
    above = bool((values > vmax + 1e-6).any())
    if below and above:
        return "both"
    return "min" if below else "max" if above else "neither"


def bar_label(text: str, extended: str, vmin: float) -> str:
    """The label of a colour bar, which tells of values below it."""
    below = extended in ("min", "both")
    return f"{text}, clipped at {vmin:g}" if below else text


def name_classes(
    panel: "Axes",
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
            Defaults to `True`.

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


def write_numbers(
    panel: "Axes", image: "AxesImage", values: np.ndarray
) -> None:
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
    values: np.ndarray,
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
    # A name is not to be broken at a space of its own.
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

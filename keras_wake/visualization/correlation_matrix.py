"""Heat map of the class-wise (or instance-wise) attribution correlation."""

import math
import warnings
from collections.abc import Sequence
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake import _validate
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to here the number fits into its cell and every class can be named.
MOST_CLASSES_WITH_NUMBERS = 12
MOST_CLASSES_NAMED = 25


def plot_correlation_matrix(
    matrix: Any,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws a correlation matrix of attribution vectors as a heat map.

    Row i and column j belong to the classes i and j. Cells without a value
    (a class without samples) are hatched grey and their classes are named
    under the map. Up to 12 classes every cell shows its number; above 25
    classes only some of them are named on the axes.

    Args:
        matrix: Array `(K, K)`, as `keras_wake.attribution.correlation_matrix`
            returns it. NaN marks a missing value.
        class_names: K names. Defaults to the class numbers.
        title: Text above the map. Defaults to the CAS of the matrix.
        vmin: Value of the darkest colour; lower ones share it. Defaults
            to `0.0`.
        vmax: Value of the brightest colour; higher ones share it. Defaults
            to `1.0`.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    matrix = keras_wake.attribution.correlation_matrix(classifier, (x, y))
    keras_wake.visualization.plot_correlation_matrix(
        matrix, class_names=["cat", "dog", "ship"], path="matrix.png"
    )
    ```
    """
    values = _check_matrix(matrix)
    names = _figure.names_of_classes(class_names, len(values))
    vmin, vmax = _validate.real(vmin=vmin), _validate.real(vmax=vmax)
    if vmin >= vmax:
        raise ValueError(
            "`vmin` must be less than `vmax`. "
            f"Received: vmin={vmin}, vmax={vmax}."
        )
    figure = _figure.new_figure(5.6, 5.0)
    panel = figure.add_subplot()
    image = panel.imshow(
        np.ma.masked_invalid(values),
        cmap="viridis",
        vmin=vmin,
        vmax=vmax,
        interpolation="nearest",
    )
    # Masked cells are transparent, so the hatched background shows there.
    panel.patch.set(facecolor="0.88", edgecolor="0.6", hatch="////")
    bar = figure.colorbar(
        image, ax=panel, shrink=0.85, extend=_extend(values, vmin, vmax)
    )
    bar.set_label("cosine similarity of attributions", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _name_classes(panel, names)
    if len(values) <= MOST_CLASSES_WITH_NUMBERS:
        _write_numbers(panel, values, vmin, vmax)
    panel.set_title(_default_title(values) if title is None else title)
    _mention_missing(panel, values, names)
    return _figure.save(figure, path)


def _check_matrix(matrix: Any) -> np.ndarray:
    values = _figure.numbers(matrix=matrix)
    if (
        values.ndim != 2
        or values.shape[0] != values.shape[1]
        or not len(values)
    ):
        raise ValueError(
            "`matrix` must be square, one row and column per class. "
            f"Received: matrix of shape {values.shape}."
        )
    if np.isinf(values).any():
        raise ValueError(
            "`matrix` must not hold infinite values. "
            f"Received {int(np.isinf(values).sum())} of them."
        )
    return values


def _default_title(values: np.ndarray) -> str:
    from keras_wake.attribution import cas

    with warnings.catch_warnings():
        # The figure itself says which classes have no value.
        warnings.simplefilter("ignore", UserWarning)
        return f"CAS = {cas(values):.1f}"


def _extend(values: np.ndarray, vmin: float, vmax: float) -> str:
    # Comparisons with NaN are false, so missing cells do not count. The
    # tolerance is for a diagonal of 1 that was computed in float32.
    below = bool((values < vmin - 1e-6).any())
    above = bool((values > vmax + 1e-6).any())
    if below and above:
        return "both"
    return "min" if below else "max" if above else "neither"


def _name_classes(panel: "Axes", names: list[str]) -> None:
    classes = len(names)
    every = 1
    if classes > MOST_CLASSES_NAMED:
        every = math.ceil(classes / MOST_CLASSES_NAMED)
        # Steps of 5, 10, … make a class between two labels easy to count.
        every = 5 * math.ceil(every / 5)
    shown = list(range(0, classes, every))
    labels = [_figure.shorten(names[index]) for index in shown]
    size = 8 if len(shown) <= MOST_CLASSES_WITH_NUMBERS else 6.5
    is_long = max(len(label) for label in labels) > 3
    panel.set_xticks(
        shown,
        labels,
        fontsize=size,
        rotation=45 if is_long else 0,
        ha="right" if is_long else "center",
        rotation_mode="anchor" if is_long else "default",
    )
    panel.set_yticks(shown, labels, fontsize=size)
    suffix = f" (every {every}th is named)" if every > 1 else ""
    panel.set_ylabel("class i" + suffix, fontsize=8)
    panel.set_xlabel("class j" + suffix, fontsize=8)


def _write_numbers(
    panel: "Axes", values: np.ndarray, vmin: float, vmax: float
) -> None:
    middle = vmin + 0.6 * (vmax - vmin)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        panel.text(
            column,
            row,
            # Without the addition, -0.001 would read -0.00.
            f"{round(float(value), 2) + 0.0:.2f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="black" if value > middle else "white",
        )


def _mention_missing(
    panel: "Axes", values: np.ndarray, names: list[str]
) -> None:
    missing = np.isnan(values)
    if not missing.any():
        return
    whole = [names[i] for i in np.flatnonzero(missing.all(axis=1))]
    if whole:
        listed = ", ".join(_figure.shorten(name) for name in whole[:6])
        more = f" and {len(whole) - 6} more" if len(whole) > 6 else ""
        text = f"hatched: no attribution (NaN) for {listed}{more}"
    else:
        text = f"hatched: {int(missing.sum())} cells without a value (NaN)"
    panel.set_xlabel(f"{panel.get_xlabel()}\n{text}", fontsize=8)

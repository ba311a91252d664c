"""What was lost between two correlation matrices, best and last epoch."""

from collections.abc import Sequence
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_correlation_difference(
    best: Any,
    last: Any,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmax: float | None = None,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws best − last: the shared features that training has given up.

    The colours diverge from 0, which is white: red is what the best epoch
    shares and the last does not, blue the reverse. Cells in which either
    matrix has no value are grey, hatched up to 20 classes. Up to 12 classes
    every cell shows its number; above 25 classes only some of them are named
    on the axes.

    Args:
        best: Array `(K, K)`, the correlation matrix of the best epoch.
        last: Array `(K, K)`, that of the last epoch.
        class_names: K names. Defaults to the class numbers.
        title: Text above the map. Defaults to the CAS of both and their
            difference, over the entries that both matrices have.
        vmax: Value of the darkest red, and its negative that of the darkest
            blue; values beyond share them. Defaults to `None`: the largest
            absolute difference.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the matrices are not square or not of one size.

    Example:

    ```python
    keras_wake.visualization.plot_correlation_difference(
        keras_wake.attribution.correlation_matrix(best, test, attack),
        keras_wake.attribution.correlation_matrix(last, test, attack),
        path="difference.png",
    )
    ```
    """
    before = _heat_map.check_matrix(best=best)
    after = _heat_map.check_matrix(last=last)
    if before.shape != after.shape:
        raise ValueError(
            "`best` and `last` must be of the same classes. Received: shapes "
            f"{before.shape} and {after.shape}."
        )
    values = before - after
    names = validate.names_of_classes(class_names, len(values))
    limit = _limit(values) if vmax is None else validate.positive(vmax=vmax)
    size = _heat_map.size_for(len(values), 5.0, 8.0)
    figure = _figure.new_figure(size + 0.6, size)
    panel = figure.add_subplot()
    image = _heat_map.draw(panel, values, -limit, limit, cmap="RdBu_r")
    # A bar without a value of two classes would be of the diagonal, 1 − 1.
    if _of_two_classes(values).size:
        bar = figure.colorbar(
            image,
            ax=panel,
            shrink=0.85,
            extend=_heat_map.extend(values, -limit, limit),
        )
        bar.set_label(
            "difference of cosine similarities, best − last", fontsize=8
        )
        bar.ax.tick_params(labelsize=8)
    suffix = _heat_map.name_classes(panel, names)
    panel.set_ylabel("class i" + suffix, fontsize=8)
    missing = _heat_map.missing_text(values, names)
    lines = filter(None, ["class j" + suffix, missing])
    panel.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
    _heat_map.write_numbers(panel, image, values)
    if title is None:
        title = _default_title(before, after, values)
    panel.set_title(title, fontsize=11)
    return _figure.save(figure, path)


def _limit(values: np.ndarray) -> float:
    differences = np.abs(values[~np.isnan(values)])
    largest = float(differences.max(initial=0.0))
    # Equal matrices have no scale of their own.
    return largest if largest > 1e-6 else 1.0


def _of_two_classes(values: np.ndarray) -> np.ndarray:
    """The values off the diagonal, without those that are missing."""
    others = values[~np.eye(len(values), dtype=bool)]
    return others[~np.isnan(others)]


def _default_title(
    before: np.ndarray, after: np.ndarray, values: np.ndarray
) -> str:
    """CAS of both over the same entries: the sums could not be compared."""
    missing = np.isnan(values)
    first, second = (
        _heat_map.cas_of(np.where(missing, np.nan, matrix))
        for matrix in (before, after)
    )
    both = _of_two_classes(values).size
    if not both:
        return "no two classes have a value in both"
    title = (
        f"CAS, best − last: {first:.1f} − {second:.1f} = {first - second:.1f}"
    )
    every = len(values) * (len(values) - 1)
    if both < every:
        title += f"\nover the {both} of {every} entries that both have"
    return title

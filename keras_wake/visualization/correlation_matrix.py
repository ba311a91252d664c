"""Heat maps of attribution correlation, and of what training has lost."""

from collections.abc import Sequence

import numpy as np

from keras_wake.attribution.correlation import quiet_cas
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map


def plot_correlation_matrix(
    matrix: Tensor,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws a correlation matrix of attribution vectors as a heat map.

    Row i and column j belong to the classes i and j. Cells without a value
    (a class without samples) are grey, hatched up to 20 classes, and their
    classes are named under the map. Up to 12 classes every cell shows its
    number; above 25 classes only some of them are named on the axes.

    Args:
        matrix: Array `(K, K)`, as `keras_wake.attribution.correlation_matrix`
            returns it. NaN marks a missing value.
        class_names: K names. Defaults to the class numbers.
        title: Text above the map. Defaults to the CAS of the matrix.
        vmin: Value of the darkest colour; lower ones share it. Defaults
            to `0.0`.
        vmax: Value of the brightest colour; higher ones share it. Defaults
            to `1.0`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    matrix = kw.attribution.correlation_matrix(classifier, (x, y))
    kw.visualization.plot_correlation_matrix(
        matrix, class_names=splits.class_names, path="matrix.png"
    )
    ```
    """
    values = _heat_map.check_matrix(matrix=matrix)
    names = validate.names_of_classes(class_names, len(values))
    figure, panel = _new_map(len(values))
    limits = _heat_map.check_limits(vmin, vmax)
    _heat_map.draw_map(panel, values, names, limits)
    if title is None:
        title = _heat_map.cas_text(quiet_cas(values)[0], " = ")
    panel.set_title(title)
    return _figure.save(figure, path)


def plot_correlation_difference(
    best: Tensor,
    last: Tensor,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmax: float | None = None,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws best − last: the shared features that training has given up.

    The colours diverge from 0, which is white: red cells are pairs of classes
    that share more at the best epoch, blue cells pairs that share more at the
    last. Cells in which either
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
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the matrices are not square or not of one size.

    Example:

    ```python
    kw.visualization.plot_correlation_difference(
        kw.attribution.correlation_matrix(best, test, attack),
        kw.attribution.correlation_matrix(last, test, attack),
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
    if vmax is None:
        largest = float(np.nanmax(np.abs(values), initial=0.0))
        # Equal matrices have no scale of their own.
        limit = largest if largest > 1e-6 else 1.0
    else:
        limit = validate.positive(vmax=vmax)
    others = values[~np.eye(len(values), dtype=bool)]
    both = int((~np.isnan(others)).sum())
    label = "difference of cosine similarities, best − last"
    figure, panel = _new_map(len(values))
    _heat_map.draw_map(
        panel,
        values,
        names,
        (-limit, limit),
        ("class i", "class j", label),
        cmap="RdBu_r",
        # Without two classes it would be of the diagonal alone, 1 − 1.
        bar=both > 0,
    )
    if title is None:
        title = _difference_title(before, after, both)
    panel.set_title(title, fontsize=11)
    return _figure.save(figure, path)


def _new_map(classes: int) -> tuple[_figure.Figure, _figure.Axes]:
    size = _heat_map.size_for(classes, 5.0, 8.0)
    figure = _figure.new_figure(size + 0.6, size)
    return figure, figure.add_subplot()


def _difference_title(before: Array, after: Array, both: int) -> str:
    """CAS of both over the same entries: the sums could not be compared."""
    if not both:
        return "no two classes have a value in both"
    missing = np.isnan(before - after)
    first, second = (
        quiet_cas(np.where(missing, np.nan, matrix))[0]
        for matrix in (before, after)
    )
    title = (
        f"CAS, best − last: {first:.1f} − {second:.1f} = {first - second:.1f}"
    )
    every = len(before) * (len(before) - 1)
    if both < every:
        title += f"\nover the {both} of {every} entries that both have"
    return title

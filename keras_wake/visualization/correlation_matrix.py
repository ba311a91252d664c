"""Heat maps of attribution correlation: one, a difference, several epochs."""

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_wake.attribution.correlation import quiet_cas
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map

PANELS_IN_A_ROW = 5
# In each panel of a strip.
MOST_CLASSES_NAMED = 12

Epoch = int | str


def plot_correlation_matrix(
    matrix: Tensor,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws a correlation matrix of attribution vectors as a heat map.

    Cells without a value (a class without samples) are grey, hatched up to 20
    classes, and their classes are named under the map. Up to 12 classes every
    cell shows its number; above 25 only some classes are named on the axes.

    Args:
        matrix: Array `(K, K)`, as `keras_wake.attribution.correlation_matrix`
            returns it. NaN marks a missing value.
        class_names: K names. Defaults to the class numbers.
        title: Text above the map. Defaults to the CAS of the matrix.
        vmin: Value of the darkest colour. Defaults to `0.0`.
        vmax: Value of the brightest colour. Defaults to `1.0`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    matrix = kw.attribution.correlation_matrix(classifier, (x, y))
    kw.visualization.plot_correlation_matrix(matrix, path="matrix.png")
    ```
    """
    values = _heat_map.check_matrix(matrix=matrix)
    names = validate.names_of_classes(class_names, len(values))
    figure, panel = _new_map(len(values))
    _heat_map.draw_map(panel, values, names, _limits(vmin, vmax))
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
    last. Cells in which either matrix has no value are grey. The rest is as
    in `plot_correlation_matrix`.

    Args:
        best: Array `(K, K)`, the correlation matrix of the best epoch.
        last: Array `(K, K)`, that of the last epoch.
        class_names: K names. Defaults to the class numbers.
        title: Text above the map. Defaults to the CAS of both and their
            difference, over the entries that both matrices have.
        vmax: Value of the darkest red, and its negative that of the darkest
            blue. Defaults to `None`: the largest absolute difference.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the matrices are not square or not of one size.

    Example:

    ```python
    kw.visualization.plot_correlation_difference(best_matrix, last_matrix)
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
        vmax = largest if largest > 1e-6 else 1.0
    limit = validate.positive(vmax=vmax)
    label = "difference of cosine similarities, best − last"
    figure, panel = _new_map(len(values))
    _heat_map.draw_map(
        panel,
        values,
        names,
        (-limit, limit),
        ("class i", "class j", label),
        cmap="RdBu_r",
    )
    if title is None:
        title = _difference_title(before, after)
    panel.set_title(title, fontsize=11)
    return _figure.save(figure, path)


def plot_correlation_strip(
    matrices: Mapping[Epoch, Tensor],
    robust_accuracy: Mapping[Epoch, float] | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws correlation matrices at chosen epochs side by side.

    All panels share one colour bar, so that their brightness can be compared.
    Above each is its epoch, its robust accuracy (RA) where that is known, and
    its CAS. After five panels a new row begins. Above 12 classes only some of
    them are named; names of more than three letters stand at the rows alone.

    Args:
        matrices: Dictionary of arrays `(K, K)`, drawn in its order. A key is
            the epoch, an integer counted from 1, or a text such as `"best"`.
        robust_accuracy: Dictionary of robust accuracies in [0, 1] under the
            same keys. Keys may be missing. Defaults to `None`.
        class_names: K names. Defaults to the class numbers.
        title: Text above all panels. Defaults to `None`, no text.
        vmin: Value of the darkest colour. Defaults to `0.0`.
        vmax: Value of the brightest colour. For regular training, where
            classes share little, 0.5 shows more. Defaults to `1.0`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If a matrix is not square or not of the size of the
            others, or if `robust_accuracy` has a key that `matrices` lacks.

    Example:

    ```python
    followed = kw.CrossClassAttribution()
    model.fit(train, validation_data=test, epochs=200, callbacks=[followed])
    kw.visualization.plot_correlation_strip(
        {e: followed.history[e - 1]["correlation"] for e in (10, 103, 200)}
    )
    ```
    """
    shown = _check_matrices(matrices)
    accuracies = _check_accuracies(robust_accuracy or {}, shown)
    every = np.stack(list(shown.values()))
    classes = every.shape[1]
    names = validate.names_of_classes(class_names, classes)
    limits = _limits(vmin, vmax)
    columns = min(len(shown), PANELS_IN_A_ROW)
    rows = math.ceil(len(shown) / columns)
    side = _heat_map.size_for(classes, 2.3, 4.0)
    is_long = max(map(len, names)) > 3
    figure = _figure.new_figure(
        side * columns + (2.3 if is_long else 1.5),
        (side + (0.6 if is_long else 0.8)) * rows + (0.3 if title else 0),
    )
    panels = []
    for number, (key, values) in enumerate(shown.items()):
        panel = figure.add_subplot(rows, columns, number + 1)
        panels.append(panel)
        image = _heat_map.draw_cells(panel, values, limits)
        suffix = _heat_map.name_classes(
            panel, names, MOST_CLASSES_NAMED, long_below=False
        )
        if number % columns:
            panel.tick_params(labelleft=False)
        else:
            panel.set_ylabel("class i" + suffix, fontsize=8)
        panel.set_xlabel("class j", fontsize=8)
        lines = [key if isinstance(key, str) else f"epoch {key}"]
        lines.append(_heat_map.cas_text(quiet_cas(values)[0]))
        if key in accuracies:
            lines[1] = f"RA {100 * accuracies[key]:.1f} %, {lines[1]}"
        panel.set_title("\n".join(lines), fontsize=9)
    _heat_map.draw_bar(panels, image, every, _heat_map.COSINE, aspect=20 * rows)
    if np.isnan(every).any():
        look = _heat_map.look_of_missing(every[0])
        figure.supxlabel(f"{look}: no attribution (NaN)", fontsize=8)
    if title is not None:
        figure.suptitle(title, fontsize=11)
    return _figure.save(figure, path)


def _new_map(classes: int) -> tuple[_figure.Figure, _figure.Axes]:
    size = _heat_map.size_for(classes, 5.0, 8.0)
    figure = _figure.new_figure(size + 0.6, size)
    return figure, figure.add_subplot()


def _limits(vmin: float, vmax: float) -> tuple[float, float]:
    """Checks the values of the darkest and the brightest colour."""
    vmin, vmax = validate.real(vmin=vmin), validate.real(vmax=vmax)
    if vmin >= vmax:
        raise ValueError(
            "`vmin` must be less than `vmax`. "
            f"Received: vmin={vmin}, vmax={vmax}."
        )
    return vmin, vmax


def _difference_title(before: Array, after: Array) -> str:
    """CAS of both over the same entries: the sums could not be compared."""
    values = _heat_map.off_diagonal(before - after)
    both = int(np.isfinite(values).sum())
    if not both:
        return "no two classes have a value in both"
    # What is NaN in one of them becomes NaN in both.
    first = quiet_cas(before + 0 * after)[0]
    second = quiet_cas(after + 0 * before)[0]
    title = (
        f"CAS, best − last: {first:.1f} − {second:.1f} = {first - second:.1f}"
    )
    if both < len(values):
        title += f"\nover the {both} of {len(values)} entries that both have"
    return title


def _check_matrices(matrices: Mapping[Epoch, Tensor]) -> dict[Epoch, Array]:
    if not isinstance(matrices, Mapping) or not matrices:
        raise ValueError(
            "`matrices` must be a dictionary of matrices under their epochs, "
            "such as {10: first, 200: last}, with at least one. Received: "
            f"{type(matrices).__name__}."
        )
    checked = {
        key: _heat_map.check_matrix(matrices=value)
        for key, value in matrices.items()
    }
    shapes = {key: values.shape for key, values in checked.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            "`matrices` must all be of the same classes. Received: shapes "
            f"{shapes}."
        )
    return checked


def _check_accuracies(
    robust_accuracy: Mapping[Epoch, float], shown: dict[Epoch, Array]
) -> dict[Epoch, float]:
    is_mapping = isinstance(robust_accuracy, Mapping)
    if not is_mapping or set(robust_accuracy) - set(shown):
        raise ValueError(
            "`robust_accuracy` must be a dictionary with keys of `matrices`, "
            f"which are {list(shown)}. Received: {robust_accuracy!r}."
        )
    return {
        key: validate.in_range(
            0, 1, "Pass a fraction, not per cent.", robust_accuracy=value
        )
        for key, value in robust_accuracy.items()
    }

"""Heat map of the class-wise (or instance-wise) attribution correlation."""

from collections.abc import Sequence
from typing import Any
from typing import TYPE_CHECKING

from keras_wake.utils import validate
from keras_wake.visualization import _figure
from keras_wake.visualization import _heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    matrix = keras_wake.attribution.correlation_matrix(classifier, (x, y))
    keras_wake.visualization.plot_correlation_matrix(
        matrix, class_names=splits.class_names, path="matrix.png"
    )
    ```
    """
    values = _heat_map.check_matrix(matrix=matrix)
    names = validate.names_of_classes(class_names, len(values))
    vmin, vmax = _heat_map.check_limits(vmin, vmax)
    size = _heat_map.size_for(len(values), 5.0, 8.0)
    figure = _figure.new_figure(size + 0.6, size)
    panel = figure.add_subplot()
    image = _heat_map.draw(panel, values, vmin, vmax)
    extend = _heat_map.extend(values, vmin, vmax)
    bar = figure.colorbar(image, ax=panel, shrink=0.85, extend=extend)
    label = _heat_map.bar_label(
        "cosine similarity of attributions", extend, vmin
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    suffix = _heat_map.name_classes(panel, names)
    panel.set_ylabel("class i" + suffix, fontsize=8)
    missing = _heat_map.missing_text(values, names)
    lines = filter(None, ["class j" + suffix, missing])
    panel.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
    _heat_map.write_numbers(panel, image, values)
    if title is None:
        title = _heat_map.cas_text(values, " = ")
    panel.set_title(title)
    return _figure.save(figure, path)

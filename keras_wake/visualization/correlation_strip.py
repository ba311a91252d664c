"""Correlation matrices of several epochs side by side, in shared colours."""

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
MOST_CLASSES_NAMED = 12

Epoch = int | str


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
    its CAS. After five panels a new row begins. Cells without a
    value are grey, hatched up to 20 classes. Above 12 classes only some of
    them are named; names of more than three letters stand at the rows alone.

    Args:
        matrices: Dictionary of arrays `(K, K)`, drawn in its order. A key is
            the epoch, an integer counted from 1, or a text such as `"best"`.
        robust_accuracy: Dictionary of robust accuracies in [0, 1] under the
            same keys. Keys may be missing. Defaults to `None`.
        class_names: K names. Defaults to the class numbers.
        title: Text above all panels. Defaults to `None`, no text.
        vmin: Value of the darkest colour; lower ones share it. Defaults
            to `0.0`.
        vmax: Value of the brightest colour; higher ones share it. For regular
            training, where classes share little, 0.5 shows more. Defaults
            to `1.0`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError, ValueError: If a matrix is not square or not of the size of
            the others, or if `robust_accuracy` has a key that `matrices` lacks.

    Example:

    ```python
    followed = kw.CrossClassAttribution()
    run = model.fit(
        train, validation_data=test, epochs=200, callbacks=[followed]
    )
    robust = run.history["val_robust_accuracy"]
    epochs = (10, 103, 200)
    kw.visualization.plot_correlation_strip(
        {e: followed.history[e - 1]["correlation"] for e in epochs},
        robust_accuracy={e: robust[e - 1] for e in epochs},
        path="strip.png",
    )
    ```
    """
    shown = _check_matrices(matrices)
    accuracies = _check_accuracies(robust_accuracy, shown)
    every = np.stack(list(shown.values()))
    classes = every.shape[1]
    names = validate.names_of_classes(class_names, classes)
    limits = _heat_map.check_limits(vmin, vmax)
    columns = min(len(shown), PANELS_IN_A_ROW)
    rows = math.ceil(len(shown) / columns)
    side = _heat_map.size_for(classes, 2.3, 4.0)
    is_long = max(map(len, names)) > 3
    figure = _figure.new_figure(
        side * columns + (2.3 if is_long else 1.5),
        (side + (0.6 if is_long else 0.8)) * rows + (0.3 if title else 0),
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat[len(shown) :]:
        panel.remove()
    panels = list(axes.flat[: len(shown)])
    for number, (panel, (key, values)) in enumerate(
        zip(panels, shown.items(), strict=True)
    ):
        image = _heat_map.draw_cells(panel, values, limits)
        suffix = _heat_map.name_classes(
            panel, names, MOST_CLASSES_NAMED, long_below=False
        )
        if number % columns:
            panel.tick_params(labelleft=False)
        else:
            panel.set_ylabel("class i" + suffix, fontsize=8)
        panel.set_xlabel("class j", fontsize=8)
        panel.set_title(_panel_title(key, accuracies, values), fontsize=9)
    _heat_map.draw_bar(panels, image, every, _heat_map.COSINE, aspect=20 * rows)
    if np.isnan(every).any():
        look = _heat_map.look_of_missing(every[0])
        figure.supxlabel(f"{look}: no attribution (NaN)", fontsize=8)
    if title is not None:
        figure.suptitle(title, fontsize=11)
    return _figure.save(figure, path)


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
    robust_accuracy: Mapping[Epoch, float] | None, shown: dict[Epoch, Array]
) -> dict[Epoch, float]:
    if robust_accuracy is None:
        return {}
    if not isinstance(robust_accuracy, Mapping):
        raise TypeError(
            "`robust_accuracy` must be a dictionary with the keys of "
            f"`matrices`. Received: {type(robust_accuracy).__name__}."
        )
    unknown = [key for key in robust_accuracy if key not in shown]
    if unknown:
        raise ValueError(
            "`robust_accuracy` must have keys of `matrices`, which are "
            f"{list(shown)}. Received: {unknown}."
        )
    return {
        key: validate.in_range(
            0, 1, "Pass a fraction, not per cent.", robust_accuracy=value
        )
        for key, value in robust_accuracy.items()
    }


def _panel_title(
    key: Epoch, accuracies: dict[Epoch, float], values: Array
) -> str:
    name = key if isinstance(key, str) else f"epoch {key}"
    scores = _heat_map.cas_text(quiet_cas(values)[0])
    if key in accuracies:
        scores = f"RA {100 * accuracies[key]:.1f} %, {scores}"
    return f"{name}\n{scores}"

"""Curves of one run: clean and robust accuracy, and CAS, over the epochs."""

from typing import Any
from typing import TYPE_CHECKING

from keras_wake.utils import validate
from keras_wake.visualization import _curves
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Key, label, colour and line style. The colour says which network it is,
# the style which accuracy.
ACCURACIES = (
    ("val_accuracy", "student, clean", _figure.BLUE, "--"),
    ("val_robust_accuracy", "student, robust", _figure.BLUE, "-"),
    ("val_teacher_accuracy", "teacher, clean", _figure.VERMILLION, "--"),
    ("val_teacher_robust_accuracy", "teacher, robust", _figure.VERMILLION, "-"),
    ("robust_accuracy", "student, robust (training)", _figure.GREY, "-."),
)
CAS = (
    ("val_cas", "student, CAS", _figure.BLUE, "-"),
    ("val_teacher_cas", "teacher, CAS", _figure.VERMILLION, "-"),
)
KNOWN_KEYS = tuple(row[0] for row in ACCURACIES + CAS)


def plot_history(
    history: Any,
    start_epoch: int | None = None,
    end_epoch: int | None = None,
    validation_freq: int = 1,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws the accuracies of one run over its epochs, and CAS below.

    Drawn is what the history holds of `val_accuracy`, `val_robust_accuracy`,
    `val_teacher_accuracy`, `val_teacher_robust_accuracy`, `robust_accuracy`,
    `val_cas` and `val_teacher_cas`. Epochs without a value (None or NaN) are
    skipped and their neighbours joined.

    Args:
        history: A dictionary of lists, such as the `.history` of what `fit`
            returns or the columns of a `CSVLogger` file, or the rows of such
            a file. Epochs are counted from 1: they are taken from a key
            `epochs` (from 1), else from `epoch` (from 0, as `CSVLogger`
            writes it), else counted.
        start_epoch: t_s, marked by a vertical line if the run came that far.
            Defaults to `None`, no line.
        end_epoch: t_e, likewise.
        validation_freq: The argument of the same name that `fit` ran with.
            It places validation values of which there are fewer than epochs.
            Defaults to `1`.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    run = model.fit(train, validation_data=validation, epochs=60)
    keras_wake.visualization.plot_history(
        run.history, start_epoch=30, end_epoch=33, path="history.png"
    )
    ```
    """
    marks = _figure.check_ramp(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    columns = _curves.columns_of(history)
    curves = {}
    for key in KNOWN_KEYS:
        points = _curves.curve(columns, key, freq)
        if points is not None:
            curves[key] = points
    if not curves:
        raise ValueError(
            "`history` must hold values for at least one of "
            f"{', '.join(KNOWN_KEYS)}. Received: keys {sorted(columns)}."
        )
    panels = [
        (label, rows)
        for label, rows in (("accuracy", ACCURACIES), ("CAS", CAS))
        if any(row[0] in curves for row in rows)
    ]
    figure = _figure.new_figure(6.4, 5.0 if len(panels) == 2 else 3.8)
    grid = figure.subplots(
        len(panels),
        sharex=True,
        squeeze=False,
        height_ratios=[2, 1][: len(panels)],
    )
    axes = list(grid[:, 0])
    for panel, (label, rows) in zip(axes, panels, strict=True):
        _draw(panel, label, rows, curves)
    _figure.finish_panels(
        axes, (epoch for points in curves.values() for epoch in points[0])
    )
    _legend(figure, axes)
    _figure.mark_epochs(axes, marks)
    return _figure.save(figure, path)


def _draw(
    panel: "Axes",
    label: str,
    rows: tuple[tuple[str, str, str, str], ...],
    curves: dict[str, _curves.Curve],
) -> None:
    for key, name, color, style in rows:
        if key not in curves:
            continue
        epochs, values = curves[key]
        panel.plot(
            epochs,
            values,
            label=name,
            color=color,
            linestyle=style,
            linewidth=1.4,
            marker=_figure.marker_for(len(epochs)),
            markersize=2.5,
        )
    panel.set_ylabel(label, fontsize=9)
    if label == "accuracy":
        _figure.show_percent(panel)


def _legend(figure: "Figure", axes: list["Axes"]) -> None:
    # A network is named for the lower panel only if the upper one does not
    # show it: the colours are the same.
    lines = list(axes[0].get_lines())
    colors = {line.get_color() for line in lines}
    for panel in axes[1:]:
        lines += [e for e in panel.get_lines() if e.get_color() not in colors]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=3, fontsize=8
    )

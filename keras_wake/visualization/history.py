"""Curves of one run: clean and robust accuracy, and CAS, over the epochs."""

from keras_wake.utils import validate
from keras_wake.visualization import _curves
from keras_wake.visualization import _figure

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
    history: _curves.History,
    start_epoch: int | None = None,
    end_epoch: int | None = None,
    validation_freq: int = 1,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws the accuracies of one run over its epochs, and CAS below.

    The curves are those of `val_accuracy`, `val_robust_accuracy`,
    `val_teacher_accuracy`, `val_teacher_robust_accuracy`, `robust_accuracy`,
    `val_cas` and `val_teacher_cas` that the history holds. Epochs without a
    value (None or NaN) are skipped, and their neighbours joined.

    Args:
        history: A dictionary of lists, such as the `.history` of what `fit`
            returns or the columns of a `CSVLogger` file, or the rows of such
            a file. Epochs are read from the key `epochs` (counted from 1) or
            else from `epoch` (counted from 0, as `CSVLogger` writes it).
            Without either they are counted from 1.
        start_epoch: t_s, marked by a vertical line if the run came that far.
            Defaults to `None`, no line.
        end_epoch: t_e, likewise.
        validation_freq: The argument of the same name that `fit` ran with.
            It tells to which epochs the validation values belong.
            Defaults to `1`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

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
    marks = _figure.ramp_marks(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    columns = _curves.columns_of(history)
    found = {key: _curves.curve(columns, key, freq) for key in KNOWN_KEYS}
    curves = {key: points for key, points in found.items() if points}
    if not curves:
        raise ValueError(
            "`history` must hold values for at least one of "
            f"{', '.join(KNOWN_KEYS)}. Received: keys {sorted(columns)}."
        )
    panels = [
        (label, [row for row in rows if row[0] in curves])
        for label, rows in (("accuracy", ACCURACIES), ("CAS", CAS))
        if any(row[0] in curves for row in rows)
    ]
    figure = _figure.new_figure(6.4, 5.0 if len(panels) == 2 else 3.8)
    axes = _figure.column(figure, [2, 1][: len(panels)])
    for panel, (label, rows) in zip(axes, panels, strict=True):
        for key, name, color, style in rows:
            look = _figure.Look(color, style)
            _figure.draw_curve(panel, *curves[key], name, look)
        panel.set_ylabel(label, fontsize=9)
        if label == "accuracy":
            _figure.show_percent(panel)
    _figure.style_epochs(
        axes, (epoch for points in curves.values() for epoch in points[0])
    )
    # A network is named for the lower panel only if the upper one does not
    # show it: the colours are the same.
    upper = axes[0].get_lines()
    colors = {line.get_color() for line in upper}
    others = [line for panel in axes[1:] for line in panel.get_lines()]
    others = [line for line in others if line.get_color() not in colors]
    _figure.legend_above(figure, 3, handles=[*upper, *others])
    _figure.draw_marks(axes, marks)
    return _figure.save(figure, path)

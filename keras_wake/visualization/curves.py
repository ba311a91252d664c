"""Curves over the epochs: of one run, or of several with their seeds.

A history has one of three shapes: `History.history` (a dictionary of lists),
the columns of a `CSVLogger` file (the same with texts as values and `epoch`
counted from 0) and its rows (a list of dictionaries). A curve is a pair of
arrays, epochs counted from 1 and values, without the missing points.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json
from keras_wake.visualization import _figure

# What `fit` returns the `.history` of, or the columns or rows of a CSV file.
History = Mapping[str, Sequence[Json]] | Sequence[Mapping[str, Json]]
Curve = tuple[Array, Array]
Columns = dict[str, list[Json]]

# What CSVLogger, csv and pandas write where an epoch has no value.
MISSING = ("", "NA", "None", "nan", "NaN")
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
KEY_LABELS = {
    "val_accuracy": "clean accuracy",
    "val_robust_accuracy": "robust accuracy",
    "val_teacher_accuracy": "clean accuracy, teacher",
    "val_teacher_robust_accuracy": "robust accuracy, teacher",
    "val_cas": "CAS",
    "val_teacher_cas": "CAS, teacher",
}


def plot_history(
    history: History,
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
    kw.visualization.plot_history(
        run.history, start_epoch=30, end_epoch=33, path="history.png"
    )
    ```
    """
    marks = _figure.ramp_marks(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    columns = _columns_of(history)
    found = {key: _curve(columns, key, freq) for key in KNOWN_KEYS}
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


def plot_comparison(
    histories: Mapping[str, History | Sequence[History]],
    key: str = "val_robust_accuracy",
    keys: Sequence[str] | None = None,
    start_epoch: int | None = None,
    end_epoch: int | None = None,
    validation_freq: int = 1,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws one key of several runs over the epochs, one panel per key.

    If a name stands for several runs (seeds), the curve is their mean, and a
    band reaches from the lowest to the highest of them, over the epochs that
    all of them have. A panel leaves out the names that lack its key.

    Args:
        histories: A dictionary with, for each name in the legend, one history
            or a list of histories that differ in their seed. A history is
            what `plot_history` takes.
        key: What is compared. Defaults to `"val_robust_accuracy"`.
        keys: Several keys, one panel each; replaces `key`.
            Defaults to `None`.
        start_epoch: t_s, marked by a vertical line. Defaults to `None`.
        end_epoch: t_e, likewise.
        validation_freq: The argument of the same name that `fit` ran with.
            Defaults to `1`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    kw.visualization.plot_comparison(
        {"AT": [at_seed_0, at_seed_1], "WAKE": [wake_seed_0, wake_seed_1]},
        keys=("val_robust_accuracy", "val_cas"),
        path="comparison.png",
    )
    ```
    """
    marks = _figure.ramp_marks(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    if not isinstance(histories, Mapping) or not histories:
        raise ValueError(
            "`histories` must be a dictionary with at least one named "
            f"history. Received: histories={histories!r}."
        )
    shown = _check_keys(key, keys)
    runs = {
        str(name): [_columns_of(run) for run in _as_runs(name, value)]
        for name, value in histories.items()
    }
    curves = {
        (name, item): found
        for name, columns in runs.items()
        for item in shown
        if (found := _curve_of_seeds(name, columns, item, freq))
    }
    _check_complete(runs, shown, curves)
    figure = _figure.new_figure(6.4, 1.0 + 2.6 * len(shown))
    axes = _figure.column(figure, [1] * len(shown))
    for panel, item in zip(axes, shown, strict=True):
        for index, name in enumerate(runs):
            if (name, item) in curves:
                look = _figure.look_of(index)
                _draw(panel, name, look, *curves[name, item])
        panel.set_ylabel(KEY_LABELS.get(item, item), fontsize=9)
        if item.endswith("accuracy"):
            _figure.show_percent(panel)
    _figure.style_epochs(
        axes, (epoch for epochs, _ in curves.values() for epoch in epochs)
    )
    # The colours are the same in all panels, so every run is named once.
    lines = [line for panel in axes for line in panel.get_lines()]
    handles = {line.get_label(): line for line in lines[::-1]}
    _figure.legend_above(figure, 2, handles=list(handles.values())[::-1])
    _figure.draw_marks(axes, marks)
    return _figure.save(figure, path)


def _check_keys(key: str, keys: Sequence[str] | None) -> list[str]:
    if keys is None:
        if not isinstance(key, str):
            raise TypeError(f"`key` must be a text. Received: key={key!r}.")
        return [key]
    # A text is a sequence of letters, each of which would be taken for a key.
    if not isinstance(keys, Sequence) or isinstance(keys, str) or not keys:
        raise ValueError(
            "`keys` must be a list with at least one key. "
            f"Received: keys={keys!r}."
        )
    return list(keys)


def _as_runs(name: str, value: History | Sequence[History]) -> list[History]:
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return list(value)
    raise ValueError(
        f"histories[{name!r}] must be a history or a list of histories. "
        f"Received: {value!r}."
    )


def _curve_of_seeds(
    name: str, runs: list[Columns], key: str, validation_freq: int
) -> Curve | None:
    """The common epochs of all seeds and their values (seeds, epochs)."""
    found = [_curve(run, key, validation_freq) for run in runs]
    curves = [points for points in found if points is not None]
    if not curves:
        return None
    if len(curves) < len(found):
        raise ValueError(
            f"Only {len(curves)} of the {len(found)} histories of {name!r} "
            f"hold values of {key!r}; a mean needs all of them."
        )
    common = curves[0][0]
    for epochs, _ in curves[1:]:
        common = np.intersect1d(common, epochs)
    if not len(common):
        raise ValueError(
            f"The {len(curves)} histories of {name!r} have no epoch with "
            f"{key!r} in common."
        )
    kept = [values[np.isin(epochs, common)] for epochs, values in curves]
    return common, np.stack(kept)


def _check_complete(
    runs: dict[str, list[Columns]],
    shown: list[str],
    curves: dict[tuple[str, str], Curve],
) -> None:
    received = {name: sorted(columns[0]) for name, columns in runs.items()}
    for item in shown:
        if not any((name, item) in curves for name in runs):
            raise ValueError(
                f"None of the histories holds values of {item!r}. "
                f"Received: keys {received}."
            )
    for name in runs:
        if not any((name, item) in curves for item in shown):
            raise ValueError(
                f"histories[{name!r}] holds values of none of {shown}. "
                f"Received: keys {received[name]}."
            )


def _draw(
    panel: _figure.Axes,
    name: str,
    look: _figure.Look,
    epochs: Array,
    values: Array,
) -> None:
    seeds = len(values)
    label = f"{name} (mean and range of {seeds} runs)" if seeds > 1 else name
    mean = values.mean(axis=0)
    _figure.draw_curve(panel, epochs, mean, label, look, linewidth=1.5)
    if seeds > 1:
        panel.fill_between(
            epochs,
            values.min(axis=0),
            values.max(axis=0),
            color=look.color,
            alpha=0.2,
            linewidth=0,
        )


def _columns_of(history: History) -> Columns:
    """The history as lists under their keys."""
    if isinstance(history, Mapping):
        return {
            str(key): list(values)
            for key, values in history.items()
            if isinstance(values, (Sequence, np.ndarray))
            and not isinstance(values, str)
        }
    is_rows = isinstance(history, Sequence) and not isinstance(history, str)
    if is_rows and all(isinstance(row, Mapping) for row in history):
        keys = dict.fromkeys(key for row in history for key in row)
        return {str(key): [row.get(key) for row in history] for key in keys}
    raise ValueError(
        "A history must be a dictionary of lists, such as the `.history` of "
        "what `fit` returns, or a list of rows of a CSVLogger file. "
        f"Received: {type(history).__name__}."
    )


def _curve(
    columns: Columns, key: str, validation_freq: int = 1
) -> Curve | None:
    """The points of one key, or None without any."""
    if key not in columns:
        return None
    values = np.array([_number(key, value) for value in columns[key]])
    epochs = _epochs(columns)
    if len(values) < len(epochs) and key.startswith("val_"):
        epochs = epochs[epochs % validation_freq == 0]
    if len(values) != len(epochs):
        raise ValueError(
            f"The history holds {len(values)} values of {key!r} for "
            f"{len(epochs)} epochs, so their epochs are unknown. Fill the "
            "gaps with None or, if `fit` ran with `validation_freq`, pass "
            f"the same number. Received: validation_freq={validation_freq}."
        )
    present = np.isfinite(values)
    if not present.any():
        return None
    return epochs[present], values[present]


def _epochs(columns: Columns) -> Array:
    if "epochs" in columns:
        return np.array([_number("epochs", e) for e in columns["epochs"]])
    if "epoch" in columns:
        return np.array([_number("epoch", e) + 1 for e in columns["epoch"]])
    longest = max((len(values) for values in columns.values()), default=0)
    return np.arange(1, longest + 1, dtype="float64")


def _number(key: str, value: Json) -> float:
    if value is None or (isinstance(value, str) and value.strip() in MISSING):
        return float("nan")
    try:
        return float(np.asarray(value, dtype="float64").item())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A value of {key!r} in the history is not a number. "
            f"Received: {value!r}."
        ) from error

"""Curves over the epochs: of one run, or of several with their seeds."""

import functools
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json
from keras_wake.visualization import _figure

# What `fit` returns the `.history` of, or the columns or rows of a CSV file.
History = Mapping[str, Sequence[Json]] | Sequence[Mapping[str, Json]]
Columns = dict[str, list[Json]]
# Epochs (E,), counted from 1, and values (runs, E), without missing points.
Curve = tuple[Array, Array]
# Label of the vertical axis, and curves with their labels and looks.
Panel = tuple[str, list[tuple[Curve, str, _figure.Look]]]

# What CSVLogger, csv and pandas write where an epoch has no value.
MISSING = ("", "NA", "None")
# Key, label and look. The colour says which network it is, the line style
# which accuracy.
ACCURACIES = (
    ("val_accuracy", "student, clean", (_figure.BLUE, "--")),
    ("val_robust_accuracy", "student, robust", (_figure.BLUE, "-")),
    ("val_teacher_accuracy", "teacher, clean", (_figure.VERMILLION, "--")),
    (
        "val_teacher_robust_accuracy",
        "teacher, robust",
        (_figure.VERMILLION, "-"),
    ),
    ("robust_accuracy", "student, robust (training)", (_figure.GREY, "-.")),
)
CAS = (
    ("val_cas", "student, CAS", (_figure.BLUE, "-")),
    ("val_teacher_cas", "teacher, CAS", (_figure.VERMILLION, "-")),
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

    The curves are those of `robust_accuracy`, `val_accuracy`,
    `val_robust_accuracy`, `val_cas` and of the last three for the teacher, as
    far as the history holds them. Epochs without a value are skipped.

    Args:
        history: A dictionary of lists, such as the `.history` of what `fit`
            returns or the columns of a `CSVLogger` file, or the rows of such
            a file. Epochs are read from the key `epochs` (counted from 1) or
            else from `epoch` (counted from 0). Without either they are
            counted from 1.
        start_epoch: t_s, marked by a vertical line if the run came that far.
            Defaults to `None`.
        end_epoch: t_e, likewise. Defaults to `None`.
        validation_freq: The argument of that name that `fit` ran with, which
            tells the epochs of the validation values. Defaults to `1`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    run = model.fit(train, validation_data=validation, epochs=60)
    kw.visualization.plot_history(run.history, path="history.png")
    ```
    """
    marks = _marks(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    columns = _columns_of(history)
    panels: list[Panel] = []
    for title, rows in (("accuracy", ACCURACIES), ("CAS", CAS)):
        found = [
            (curve, label, look)
            for key, label, look in rows
            if (curve := _curve("", [columns], key, freq))
        ]
        if found:
            panels.append((title, found))
    if not panels:
        raise ValueError(
            "`history` must hold values for at least one of "
            f"{', '.join(KNOWN_KEYS)}. Received: keys {sorted(columns)}."
        )
    figure = _figure.new_figure(6.4, 5.0 if len(panels) == 2 else 3.8)
    _draw(figure, panels, [2, 1][: len(panels)], 3, marks)
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
            as `plot_history` takes it, or a list of them, one for each seed.
        key: What is compared. Defaults to `"val_robust_accuracy"`.
        keys: Several keys, one panel each; replaces `key`. Defaults to `None`.
        start_epoch: As in `plot_history`. Defaults to `None`.
        end_epoch: As in `plot_history`. Defaults to `None`.
        validation_freq: As in `plot_history`. Defaults to `1`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    kw.visualization.plot_comparison(
        {"AT": [at_seed_0, at_seed_1], "WAKE": [wake_seed_0, wake_seed_1]}
    )
    ```
    """
    marks = _marks(start_epoch, end_epoch)
    freq = validate.integer(1, validation_freq=validation_freq)
    if not isinstance(histories, Mapping) or not histories:
        raise ValueError(
            "`histories` must be a dictionary with at least one named "
            f"history. Received: histories={histories!r}."
        )
    shown = [key] if keys is None else keys
    # A text is a sequence of letters, each of which would be taken for a key.
    is_list = isinstance(shown, Sequence) and not isinstance(shown, str)
    if not is_list or not shown or not all(isinstance(k, str) for k in shown):
        raise ValueError(
            "`key` must be a text, or `keys` a list with at least one. "
            f"Received: key={key!r}, keys={keys!r}."
        )
    runs = {
        str(name): [_columns_of(run) for run in _as_runs(name, value)]
        for name, value in histories.items()
    }
    panels: list[Panel] = []
    for item in shown:
        found = [
            (curve, _label(name, len(columns)), _figure.look_of(number))
            for number, (name, columns) in enumerate(runs.items())
            if (curve := _curve(name, columns, item, freq))
        ]
        if not found:
            received = {name: sorted(runs[name][0]) for name in runs}
            raise ValueError(
                f"None of the histories holds values of {item!r}. "
                f"Received: keys {received}."
            )
        panels.append((KEY_LABELS.get(item, item), found))
    drawn = {label for _, found in panels for _, label, _ in found}
    for name, columns in runs.items():
        if _label(name, len(columns)) not in drawn:
            raise ValueError(
                f"histories[{name!r}] holds values of none of {shown}. "
                f"Received: keys {sorted(columns[0])}."
            )
    figure = _figure.new_figure(6.4, 1.0 + 2.6 * len(shown))
    _draw(figure, panels, [1] * len(shown), 2, marks)
    return _figure.save(figure, path)


def _marks(
    start_epoch: int | None, end_epoch: int | None
) -> list[_figure.Mark]:
    """Checks t_s and t_e, and makes marks of those that are given."""
    marks: list[_figure.Mark] = []
    if start_epoch is not None:
        start_epoch = validate.integer(0, start_epoch=start_epoch)
        marks.append((start_epoch, f"$t_s$ = {start_epoch}", "right"))
    if end_epoch is not None:
        end_epoch = validate.integer(1, end_epoch=end_epoch)
        marks.append((end_epoch, f"$t_e$ = {end_epoch}", "left"))
    if len(marks) == 2 and marks[0][0] >= marks[1][0]:
        raise ValueError(
            "`start_epoch` must be less than `end_epoch`. Received: "
            f"start_epoch={start_epoch}, end_epoch={end_epoch}."
        )
    return marks


def _draw(
    figure: _figure.Figure,
    panels: list[Panel],
    heights: list[int],
    ncols: int,
    marks: list[_figure.Mark],
) -> None:
    """Draws panels below each other, over one axis and below one legend."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots(
        len(panels), sharex=True, squeeze=False, height_ratios=heights
    )[:, 0].tolist()
    handles: list = []
    for panel, (title, curves) in zip(axes, panels, strict=True):
        named = {line.get_color() for line in handles}
        for (epochs, values), label, look in curves:
            _figure.draw_curve(panel, epochs, values.mean(axis=0), label, look)
            if len(values) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                panel.fill_between(
                    epochs, low, high, color=look[0], alpha=0.2, linewidth=0
                )
        # The colours are the same in all panels, so that each is named once.
        lines = panel.get_lines()
        handles += [line for line in lines if line.get_color() not in named]
        panel.set_ylabel(title, fontsize=9)
        if "accuracy" in title:
            _figure.show_percent(panel)
        _figure.style(panel)
    every = np.concatenate([c[0] for _, found in panels for c, _, _ in found])
    # A single epoch needs a range that is not empty.
    margin = 0.02 * np.ptp(every) or 0.5
    axes[0].set_xlim(every.min() - margin, every.max() + margin)
    axes[0].xaxis.set_major_locator(
        MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )
    axes[-1].set_xlabel("epoch", fontsize=9)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=ncols, fontsize=8
    )
    _figure.draw_marks(axes, marks)


def _as_runs(name: str, value: History | Sequence[History]) -> list[History]:
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return list(value)
    raise ValueError(
        f"histories[{name!r}] must be a history or a list of histories. "
        f"Received: {value!r}."
    )


def _label(name: str, seeds: int) -> str:
    return f"{name} (mean and range of {seeds} runs)" if seeds > 1 else name


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
    name: str, runs: list[Columns], key: str, validation_freq: int
) -> Curve | None:
    """The epochs that all runs have, and their values; None without any."""
    found = [_points(run, key, validation_freq) for run in runs]
    curves = [points for points in found if len(points[0])]
    if not curves:
        return None
    if len(curves) < len(found):
        raise ValueError(
            f"Only {len(curves)} of the {len(found)} histories of {name!r} "
            f"hold values of {key!r}; a mean needs all of them."
        )
    common = functools.reduce(np.intersect1d, [points[0] for points in curves])
    if not len(common):
        raise ValueError(
            f"The {len(curves)} histories of {name!r} have no epoch with "
            f"{key!r} in common."
        )
    kept = [values[np.isin(epochs, common)] for epochs, values in curves]
    return common, np.stack(kept)


def _points(
    columns: Columns, key: str, validation_freq: int
) -> tuple[Array, Array]:
    """The epochs in which a run has values of a key, and the values."""
    if key not in columns:
        return np.array([]), np.array([])
    values = np.array([_number(key, value) for value in columns[key]])
    if "epochs" in columns:
        epochs = np.array([_number("epochs", e) for e in columns["epochs"]])
    elif "epoch" in columns:
        epochs = np.array([_number("epoch", e) + 1 for e in columns["epoch"]])
    else:
        epochs = np.arange(1.0, 1 + max(map(len, columns.values())))
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
    return epochs[present], values[present]


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

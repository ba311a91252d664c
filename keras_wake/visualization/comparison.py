"""Curves of several runs in one figure, with a band over their seeds."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.visualization import _curves
from keras_wake.visualization import _figure

KEY_LABELS = {
    "val_accuracy": "clean accuracy",
    "val_robust_accuracy": "robust accuracy",
    "val_teacher_accuracy": "clean accuracy, teacher",
    "val_teacher_robust_accuracy": "robust accuracy, teacher",
    "val_cas": "CAS",
    "val_teacher_cas": "CAS, teacher",
}


def plot_comparison(
    histories: Mapping[str, _curves.History | Sequence[_curves.History]],
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
    keras_wake.visualization.plot_comparison(
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
        str(name): [_curves.columns_of(run) for run in _as_runs(name, value)]
        for name, value in histories.items()
    }
    curves = {
        (name, item): found
        for name, columns in runs.items()
        for item in shown
        if (found := _curves_of(name, columns, item, freq))
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


def _as_runs(
    name: str, value: _curves.History | Sequence[_curves.History]
) -> list[_curves.History]:
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return list(value)
    raise ValueError(
        f"histories[{name!r}] must be a history or a list of histories. "
        f"Received: {value!r}."
    )


def _curves_of(
    name: str, runs: list[_curves.Columns], key: str, validation_freq: int
) -> _curves.Curve | None:
    """The common epochs of all seeds and their values (seeds, epochs)."""
    found = [_curves.curve(run, key, validation_freq) for run in runs]
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
    runs: dict[str, list[_curves.Columns]],
    shown: list[str],
    curves: dict[tuple[str, str], _curves.Curve],
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

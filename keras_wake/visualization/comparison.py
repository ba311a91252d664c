"""Curves of several runs in one figure, with a band over their seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.visualization import _curves
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY_LABELS = {
    "val_accuracy": "clean accuracy",
    "val_robust_accuracy": "robust accuracy",
    "val_teacher_accuracy": "clean accuracy, teacher",
    "val_teacher_robust_accuracy": "robust accuracy, teacher",
    "val_cas": "CAS",
    "val_teacher_cas": "CAS, teacher",
}


def plot_comparison(
    histories: Mapping[str, Any],
    key: str = "val_robust_accuracy",
    keys: Sequence[str] | None = None,
    start_epoch: int | None = None,
    end_epoch: int | None = None,
    validation_freq: int = 1,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws one key of several runs over the epochs, one panel per key.

    Where a name stands for several runs (seeds), the curve is their mean and
    the band reaches from the lowest to the highest of them, over the epochs
    that all of them have. A name that lacks one of several keys is left out
    of that panel.

    Args:
        histories: For each name in the legend one history, or a list of
            histories that differ in their seed. A history is a dictionary
            of lists as in `plot_history`.
        key: What is compared. Defaults to `"val_robust_accuracy"`.
        keys: Several keys, one panel each; takes the place of `key`.
            Defaults to `None`.
        start_epoch: t_s, marked by a vertical line. Defaults to `None`.
        end_epoch: t_e, likewise.
        validation_freq: The argument of the same name that `fit` ran with.
            Defaults to `1`.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

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
    marks = _figure.check_ramp(start_epoch, end_epoch)
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
        (name, item): _curves_of(name, columns, item, freq)
        for name, columns in runs.items()
        for item in shown
    }
    _check_complete(runs, shown, curves)
    figure = _figure.new_figure(6.4, 1.0 + 2.6 * len(shown))
    grid = figure.subplots(len(shown), sharex=True, squeeze=False)
    axes = list(grid[:, 0])
    for panel, item in zip(axes, shown, strict=True):
        for index, name in enumerate(runs):
            _draw(panel, name, index, curves[name, item])
        panel.set_ylabel(KEY_LABELS.get(item, item), fontsize=9)
        if item.endswith("accuracy"):
            _figure.show_percent(panel)
    _figure.finish_panels(
        axes, (e for group in curves.values() for c in group for e in c[0])
    )
    _figure.mark_epochs(axes, marks)
    _legend(figure, axes)
    return _figure.save(figure, path)


def _check_keys(key: str, keys: Sequence[str] | None) -> list[str]:
    if keys is None and not isinstance(key, str):
        raise TypeError(f"`key` must be a text. Received: key={key!r}.")
    is_list = isinstance(keys, Sequence) and not isinstance(keys, str)
    shown = list(keys) if keys is not None and is_list else [key]
    # A text is a sequence of letters, each of which would be taken for a key.
    if (keys is not None and not is_list) or not shown:
        raise ValueError(
            "`keys` must be a list with at least one key. "
            f"Received: keys={keys!r}."
        )
    return shown


def _as_runs(name: str, value: Any) -> list[Any]:
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
) -> list[_curves.Curve]:
    """The curve of every seed, or none at all, on their common epochs."""
    found = [_curves.curve(run, key, validation_freq) for run in runs]
    curves = [points for points in found if points is not None]
    if not curves:
        return []
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
    return [
        (epochs[keep], values[keep])
        for epochs, values in curves
        for keep in [np.isin(epochs, common)]
    ]


def _check_complete(
    runs: dict[str, list[_curves.Columns]],
    shown: list[str],
    curves: dict[tuple[str, str], list[_curves.Curve]],
) -> None:
    received = {name: sorted(columns[0]) for name, columns in runs.items()}
    for item in shown:
        if not any(curves[name, item] for name in runs):
            raise ValueError(
                f"None of the histories holds values of {item!r}. "
                f"Received: keys {received}."
            )
    for name in runs:
        if not any(curves[name, item] for item in shown):
            raise ValueError(
                f"histories[{name!r}] holds values of none of {shown}. "
                f"Received: keys {received[name]}."
            )


def _draw(
    panel: "Axes", name: str, index: int, curves: list[_curves.Curve]
) -> None:
    if not curves:
        return
    epochs = curves[0][0]
    values = np.stack([points[1] for points in curves])
    color = _figure.PALETTE[index % len(_figure.PALETTE)]
    seeds = len(values)
    label = f"{name} (mean and range of {seeds} runs)" if seeds > 1 else name
    panel.plot(
        epochs,
        values.mean(axis=0),
        label=label,
        color=color,
        linestyle=_figure.LINE_STYLES[index % len(_figure.LINE_STYLES)],
        linewidth=1.5,
        marker=_figure.marker_for(len(epochs)),
        markersize=2.5,
    )
    if seeds > 1:
        panel.fill_between(
            epochs,
            values.min(axis=0),
            values.max(axis=0),
            color=color,
            alpha=0.2,
            linewidth=0,
        )


def _legend(figure: "Figure", axes: list["Axes"]) -> None:
    """Names every run once, in the colours that all panels share."""
    handles: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(
            *panel.get_legend_handles_labels(), strict=True
        ):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=2,
        fontsize=8,
    )

"""Weight of the common features over the radius, in the synthetic model."""

from collections.abc import Mapping
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.visualization import _figure

# Enough that the corner at which a curve reaches 0 looks like one.
CURVE_POINTS = 401
# Open markers, so that those of two kinds at one place are both seen.
MARKERS = ("o", "x", "s", "+")


@runtime_checkable
class Optimum(Protocol):
    """What is drawn of a `keras_wake.theory.SyntheticModel`."""

    @property
    def mu(self) -> float: ...

    def optimal_weights(
        self, epsilon: float, label_smoothing: float = 0.0
    ) -> tuple[float, float]: ...

    def critical_epsilon(self, label_smoothing: float = 0.0) -> float: ...


def plot_synthetic(
    model: Optimum,
    label_smoothing: float = 0.1,
    points: Mapping[str, Tensor] | None = None,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws w2 over ε, without and with label smoothing.

    Vertical lines mark ε0 and ε1, from which on common features are dropped.

    Args:
        model: `keras_wake.theory.SyntheticModel`.
        label_smoothing: β of the second curve, greater than 0 and less than
            1. Defaults to `0.1`.
        points: Values found in other ways: a dictionary with, for each name
            in the legend, rows (ε, w2 without, w2 with label smoothing). NaN
            leaves a point out. Defaults to `None`.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `model` is not a `SyntheticModel`.
        ValueError: If `label_smoothing` is out of range or points are wrong.

    Example:

    ```python
    model = kw.theory.SyntheticModel()
    kw.visualization.plot_synthetic(model, path="synthetic.png")
    ```
    """
    if not isinstance(model, Optimum):
        raise TypeError(
            "`model` must be a `keras_wake.theory.SyntheticModel`. "
            f"Received: model={model!r}."
        )
    validate.positive(
        "Without it the curves are the same.", label_smoothing=label_smoothing
    )
    first = model.critical_epsilon()
    second = model.critical_epsilon(label_smoothing)
    marks: list[_figure.Mark] = [
        (first, f"$\\varepsilon_0$ = {first:.3g}", "right"),
        (second, f"$\\varepsilon_1$ = {second:.3g}", "left"),
    ]
    if not isinstance(points, (Mapping, type(None))):
        raise TypeError(
            "`points` must be a dictionary of names and arrays (P, 3). "
            f"Received: points={points!r}."
        )
    rows = {}
    for name, value in (points or {}).items():
        rows[str(name)] = found = validate.floats(points=value)
        if found.ndim != 2 or found.shape[1] != 3:
            raise ValueError(
                f"points[{name!r}] must have shape (P, 3): ε, w2 without and "
                f"w2 with label smoothing. Received: shape {found.shape}."
            )
    figure = _figure.new_figure(6.4, 4.2)
    panel = figure.add_subplot()
    # The theorems hold below mu / 2 only.
    radii = np.linspace(0, model.mu / 2, CURVE_POINTS, endpoint=False)
    smoothed = f"$w_2^{{\\mathrm{{LS}}}}$, $\\beta$ = {label_smoothing:g}"
    for number, (beta, label) in enumerate(
        ((0.0, "$w_2^*$, no label smoothing"), (label_smoothing, smoothed))
    ):
        w2 = [model.optimal_weights(e, beta)[1] for e in radii]
        look = _figure.look_of(number)
        _figure.draw_curve(panel, radii, np.array(w2), label, look)
    _draw_points(panel, rows)
    panel.set(xlim=(0, model.mu / 2), ylim=(0, None))
    _figure.draw_marks([panel], marks)
    panel.set_xlabel("radius $\\varepsilon$ of the adversary", fontsize=9)
    panel.set_ylabel("$w_2$, weight of the common features", fontsize=9)
    _figure.style(panel)
    panel.legend(loc="upper right", fontsize=8)
    return _figure.save(figure, path)


def _draw_points(panel: _figure.Axes, rows: Mapping[str, Array]) -> None:
    for index, (name, values) in enumerate(rows.items()):
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": MARKERS[index % len(MARKERS)],
            "markerfacecolor": "none",
            "markersize": 7 - index % len(MARKERS),
        }
        for column, color in ((1, _figure.BLUE), (2, _figure.VERMILLION)):
            panel.plot(
                values[:, 0],
                values[:, column],
                color=color,
                # Points at 0 lie on the axis and are not cut by it.
                clip_on=False,
                zorder=3,
                **style,
            )
        # Grey in the legend: the colours are those of the curves.
        panel.plot([], [], color="0.25", label=name, **style)

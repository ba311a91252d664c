"""Weight of the common features over the radius, in the synthetic model."""

from collections.abc import Mapping
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.theory import SyntheticModel
from keras_wake.utils import validate
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Enough that the corner at which a curve reaches 0 looks like one.
CURVE_POINTS = 401
# Open markers, so that those of two kinds at one place are both seen.
MARKERS = ("o", "x", "s", "+")


def plot_synthetic(
    model: SyntheticModel,
    label_smoothing: float = 0.1,
    points: Mapping[str, Any] | None = None,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws w2 over ε without and with label smoothing, and where it ends.

    The curves are `SyntheticModel.optimal_weights`; vertical lines mark ε0
    and ε1, from which on the common features are dropped.

    Args:
        model: `keras_wake.theory.SyntheticModel`.
        label_smoothing: β of the second curve, greater than 0 and less than
            1. Defaults to `0.1`.
        points: Values found in other ways, by their name in the legend: for
            each name an array (P, 3) with rows ε, w2 without and w2 with
            label smoothing. NaN leaves a point out. Defaults to `None`.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `model` is no `SyntheticModel`.
        ValueError: If `label_smoothing` is out of range or points have
            another shape.

    Example:

    ```python
    model = keras_wake.theory.SyntheticModel()
    x, y = model.sample(10_000)
    rows = [
        (
            epsilon,
            keras_wake.theory.monte_carlo_weights(x, y, epsilon)[1],
            keras_wake.theory.monte_carlo_weights(
                x, y, epsilon, label_smoothing=0.1
            )[1],
        )
        for epsilon in (0.1, 0.2, 0.3)
    ]
    keras_wake.visualization.plot_synthetic(
        model, 0.1, points={"Monte Carlo": rows}, path="synthetic.png"
    )
    ```
    """
    if not isinstance(model, SyntheticModel):
        raise TypeError(
            "`model` must be a `keras_wake.theory.SyntheticModel`. "
            f"Received: model={model!r}."
        )
    thresholds = (
        ("$\\varepsilon_0$", model.critical_epsilon()),
        ("$\\varepsilon_1$", model.critical_epsilon(label_smoothing)),
    )
    if label_smoothing == 0:
        raise ValueError(
            "`label_smoothing` must be greater than 0: the curves would be "
            f"the same. Received: label_smoothing={label_smoothing!r}."
        )
    if not isinstance(points, (Mapping, type(None))):
        raise TypeError(
            "`points` must be a dictionary of names and arrays (P, 3). "
            f"Received: points={points!r}."
        )
    rows = {
        str(name): _check_points(str(name), value)
        for name, value in (points or {}).items()
    }
    figure = _figure.new_figure(6.4, 4.2)
    panel = figure.add_subplot()
    _draw_curves(panel, model, label_smoothing)
    _draw_points(panel, rows)
    _mark(panel, thresholds, model.mu / 2)
    panel.set_xlim(0, model.mu / 2)
    panel.set_xlabel("radius $\\varepsilon$ of the adversary", fontsize=9)
    panel.set_ylabel("$w_2$, weight of the common features", fontsize=9)
    panel.grid(True, color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.legend(loc="upper right", fontsize=8)
    return _figure.save(figure, path)


def _check_points(name: str, value: Any) -> np.ndarray:
    rows = validate.floats(points=value)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(
            f"points[{name!r}] must have shape (P, 3): ε, w2 without and w2 "
            f"with label smoothing. Received: shape {rows.shape}."
        )
    return rows


def _draw_curves(panel: "Axes", model: SyntheticModel, beta: float) -> None:
    # Without its end: there the theorems end as well.
    radii = np.linspace(0, model.mu / 2, CURVE_POINTS, endpoint=False)
    for smoothing, label, color, style in (
        (0.0, "$w_2^*$, no label smoothing", _figure.BLUE, "-"),
        (
            beta,
            f"$w_2^{{\\mathrm{{LS}}}}$, $\\beta$ = {beta:g}",
            _figure.VERMILLION,
            "--",
        ),
    ):
        panel.plot(
            radii,
            [model.optimal_weights(e, smoothing)[1] for e in radii],
            label=label,
            color=color,
            linestyle=style,
            linewidth=1.5,
        )


def _draw_points(panel: "Axes", rows: Mapping[str, np.ndarray]) -> None:
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


def _mark(
    panel: "Axes", thresholds: tuple[tuple[str, float], ...], end: float
) -> None:
    """Draws ε0 and ε1; one beyond the end of the range is left out."""
    panel.set_ylim(bottom=0)
    for (name, radius), side in zip(thresholds, ("right", "left"), strict=True):
        if radius >= end:
            continue
        panel.axvline(radius, color="0.35", linewidth=0.9, linestyle=":")
        # The labels lean away from each other, as ε1 may follow closely.
        panel.annotate(
            f"{name} = {radius:.3g}",
            xy=(radius, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if side == "right" else 2, 3),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            color="0.25",
        )

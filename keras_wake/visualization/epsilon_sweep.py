"""A sweep over radii as a figure: robust accuracy against epsilon."""

from collections.abc import Mapping
from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.visualization import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_epsilon_sweep(
    sweep: Any,
    in_grey_levels: bool | None = None,
    path: _figure.FilePath | None = None,
) -> "Figure":
    """Draws robust accuracy against the radius, with 95 % intervals.

    Args:
        sweep: What `keras_wake.evaluation.epsilon_sweep` has returned, or a
            dictionary of names and several such sweeps of the same norm.
        in_grey_levels: Whether the radius is given as n/255 of the range of
            the pixels. Defaults to `None`: for ℓ∞ only.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `sweep` is no sweep.
        ValueError: For no sweep at all, different norms, or radii in
            different units.

    Example:

    ```python
    sweep = keras_wake.evaluation.epsilon_sweep(
        classifier, test, [0, 2/255, 4/255, 8/255]
    )
    keras_wake.visualization.plot_epsilon_sweep(sweep, path="sweep.png")
    ```
    """
    sweeps = dict(sweep) if isinstance(sweep, Mapping) else {"": sweep}
    _check(sweeps)
    first = next(iter(sweeps.values()))
    if in_grey_levels is None:
        in_grey_levels = first.norm == "linf"
    validate.boolean(in_grey_levels=in_grey_levels)
    if not in_grey_levels:
        _check_units(sweeps)
    figure = _figure.new_figure(6.0, 3.8)
    panel = figure.add_subplot()
    for number, (name, each) in enumerate(sweeps.items()):
        color = _figure.PALETTE[number % len(_figure.PALETTE)]
        scale = 255 / _width(each) if in_grey_levels else 1
        radii = scale * np.array(each.epsilons)
        low, high = np.array(each.intervals).T
        panel.fill_between(
            radii, low, high, color=color, alpha=0.15, linewidth=0
        )
        panel.plot(
            radii,
            each.accuracies,
            label=name or each.attack,
            color=color,
            linestyle=_figure.LINE_STYLES[number % len(_figure.LINE_STYLES)],
            marker=_figure.marker_for(len(radii)),
            markersize=3.5,
            linewidth=1.4,
        )
    panel.set_ylim(0, 1.02)
    panel.set_xlim(left=0)
    panel.tick_params(labelsize=8)
    unit = " in grey levels (1/255 of the range)" if in_grey_levels else ""
    panel.set_xlabel(f"epsilon{unit}, {first.norm}", fontsize=9)
    panel.set_ylabel("robust accuracy", fontsize=9)
    _figure.show_percent(panel)
    panel.grid(True, color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    _figure.show_findings(
        panel, [found for each in sweeps.values() for found in each.findings]
    )
    if len(sweeps) > 1 or "" not in sweeps:
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return _figure.save(figure, path)


def _check(sweeps: dict[str, Any]) -> None:
    from keras_wake.evaluation import EpsilonSweep

    for each in sweeps.values():
        if not isinstance(each, EpsilonSweep):
            raise TypeError(
                "`sweep` must be what `keras_wake.evaluation.epsilon_sweep` "
                f"returns. Received: {type(each).__name__}."
            )
    norms = sorted({each.norm for each in sweeps.values()})
    if len(norms) != 1:
        raise ValueError(
            "`sweep` must hold sweeps of one norm. Received: "
            f"{', '.join(norms) or 'none'}."
        )


def _width(sweep: Any) -> float:
    low, high = sweep.bounds
    return high - low


def _check_units(sweeps: dict[str, Any]) -> None:
    widths = sorted({_width(each) for each in sweeps.values()})
    if len(widths) > 1:
        raise ValueError(
            "`sweep` must hold sweeps of images with one range of pixels. "
            f"Received: ranges {', '.join(f'{w:g}' for w in widths)}. Pass "
            "`in_grey_levels=True` to have all radii in 1/255 of the range."
        )

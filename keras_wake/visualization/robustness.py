"""Evaluations as figures: accuracy after each attack, and over the radius."""

from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np

from keras_wake.evaluation import EpsilonSweep
from keras_wake.evaluation import RobustnessReport
from keras_wake.utils import validate
from keras_wake.utils.tables import shorten
from keras_wake.visualization import _figure


def plot_robustness_report(
    report: RobustnessReport, path: _figure.FilePath | None = None
) -> _figure.Figure:
    """Draws the accuracy after each attack of an evaluation.

    The first bar is the clean accuracy, the last the robust accuracy, with
    95 % intervals. Each attack runs on the samples that the earlier ones did
    not break, so no bar is above the one before it. Codes of the reliability
    checks are written in red below the title.

    Args:
        report: What `keras_wake.evaluation.autoattack` or `robust_accuracy`
            has returned.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is not a robustness report.

    Example:

    ```python
    report = kw.evaluation.autoattack(classifier, test)
    kw.visualization.plot_robustness_report(report, path="robust.png")
    ```
    """
    _figure.check_kind(RobustnessReport, "evaluation.autoattack", report=report)
    names = ["clean", *(attack.name for attack in report.attacks)]
    shares = [report.clean_accuracy, *(a.accuracy for a in report.attacks)]
    ends = [report.clean_interval, *(a.interval for a in report.attacks)]
    colors = [_figure.SKY] * len(names)
    colors[0], colors[-1] = _figure.GREY, _figure.BLUE
    figure = _figure.new_figure(max(4.5, 1.2 + 0.95 * len(names)), 3.6)
    panel = figure.add_subplot()
    bars = panel.bar(
        range(len(names)),
        shares,
        color=colors,
        width=0.7,
        yerr=np.abs(np.array(ends).T - shares),
        error_kw={"ecolor": "0.15", "elinewidth": 1, "capsize": 3},
    )
    numbers = [f"{100 * share:.1f}" for share in shares]
    panel.bar_label(bars, numbers, padding=2, fontsize=8)
    _figure.style(panel, axis="y")
    labels = [shorten(name, 16) for name in names]
    panel.set_xticks(range(len(names)), labels, parse_math=False)
    if len(names) > 6:
        panel.tick_params(axis="x", rotation=30)
    panel.set(yticks=np.linspace(0, 1, 6), ylim=(0, 1.12))
    _figure.show_percent(panel)
    panel.set_ylabel("accuracy after the attack", fontsize=9)
    title = (
        f"robust accuracy {100 * report.robust_accuracy:.1f} %, "
        f"{report.norm}, epsilon {report.epsilon:.4g}, "
        f"{report.samples} samples"
    )
    panel.set_title(title, fontsize=10, pad=18 if report.findings else 6)
    _show_findings(panel, report.findings)
    return _figure.save(figure, path)


def plot_epsilon_sweep(
    sweep: EpsilonSweep | Mapping[str, EpsilonSweep],
    in_grey_levels: bool | None = None,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws robust accuracy against the radius, with 95 % intervals.

    Args:
        sweep: What `keras_wake.evaluation.epsilon_sweep` has returned, or a
            dictionary of names and several such sweeps of the same norm.
        in_grey_levels: Whether radii are in 1/255 of the range of the pixels.
            Defaults to `None`: for ℓ∞ only.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `sweep` is not a sweep.
        ValueError: If there is none, or if the norms or the units differ.

    Example:

    ```python
    sweep = kw.evaluation.epsilon_sweep(classifier, test, [0, 4/255, 8/255])
    kw.visualization.plot_epsilon_sweep(sweep, path="sweep.png")
    ```
    """
    sweeps = dict(sweep) if isinstance(sweep, Mapping) else {"": sweep}
    for each in sweeps.values():
        _figure.check_kind(EpsilonSweep, "evaluation.epsilon_sweep", sweep=each)
    norms = sorted({each.norm for each in sweeps.values()})
    if len(norms) != 1:
        raise ValueError(
            "`sweep` must hold sweeps of one norm. Received: "
            f"{', '.join(norms) or 'none'}."
        )
    if in_grey_levels is None:
        in_grey_levels = norms[0] == "linf"
    validate.boolean(in_grey_levels=in_grey_levels)
    widths = [each.bounds[1] - each.bounds[0] for each in sweeps.values()]
    if not in_grey_levels and len(set(widths)) > 1:
        ranges = ", ".join(f"{width:g}" for width in sorted(set(widths)))
        raise ValueError(
            "`sweep` must hold sweeps of images with one range of pixels. "
            f"Received: ranges {ranges}. Pass `in_grey_levels=True` to have "
            "all radii in 1/255 of the range."
        )
    figure = _figure.new_figure(6.0, 3.8)
    panel = figure.add_subplot()
    for number, (name, each) in enumerate(sweeps.items()):
        look = _figure.look_of(number)
        scale = 255 / widths[number] if in_grey_levels else 1
        radii = scale * np.array(each.epsilons)
        low, high = np.array(each.intervals).T
        panel.fill_between(
            radii, low, high, color=look[0], alpha=0.15, linewidth=0
        )
        label = name or each.attack
        _figure.draw_curve(panel, radii, np.array(each.accuracies), label, look)
    _figure.style(panel)
    panel.set_ylim(0, 1.02)
    panel.set_xlim(left=0)
    unit = " in grey levels (1/255 of the range)" if in_grey_levels else ""
    panel.set_xlabel(f"epsilon{unit}, {norms[0]}", fontsize=9)
    panel.set_ylabel("robust accuracy", fontsize=9)
    _figure.show_percent(panel)
    _show_findings(
        panel, [found for each in sweeps.values() for found in each.findings]
    )
    if len(sweeps) > 1 or "" not in sweeps:
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return _figure.save(figure, path)


def _show_findings(
    panel: _figure.Axes, findings: Iterable[tuple[str, str]]
) -> None:
    """Names what makes the numbers doubtful, in red above a panel."""
    codes = ", ".join(dict.fromkeys(code for code, _ in findings))
    if codes:
        panel.text(
            0.5,
            1.02,
            f"doubtful: {codes}",
            transform=panel.transAxes,
            ha="center",
            fontsize=8,
            color=_figure.VERMILLION,
        )

"""The figures of a robustness report and of a sweep."""

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.evaluation import AttackResult
from keras_wake.evaluation import EpsilonSweep
from keras_wake.evaluation import RobustnessReport
from keras_wake.evaluation import wilson_interval
from keras_wake.visualization import plot_epsilon_sweep
from keras_wake.visualization import plot_robustness_report


def make_report(findings=()):
    """100 samples: 80 classified rightly, 60 and 50 of them after attacks."""
    attacks = [
        AttackResult(
            name=f"attack {number}",
            settings="",
            epsilon=0.1,
            attacked=before,
            fell=before - left,
            accuracy=left / 100,
            interval=wilson_interval(left, 100),
            forward_passes=1,
            backward_passes=1,
            seconds=1.0,
            note=None,
        )
        for number, (before, left) in enumerate([(80, 60), (60, 50)])
    ]
    return RobustnessReport(
        version="custom",
        norm="linf",
        epsilon=0.1,
        bounds=(0.0, 1.0),
        seed=0,
        batch_size=8,
        class_names=["a"],
        passes_per_prediction=1,
        counts=np.array([100]),
        clean_counts=np.array([80]),
        robust_counts=np.array([50]),
        attacks=tuple(attacks),
        findings=tuple(findings),
        date="",
        versions={},
    )


def make_sweep(norm="linf", width=1.0, findings=()):
    return EpsilonSweep(
        norm=norm,
        bounds=(0.0, width),
        attack="PGD()",
        epsilons=tuple(width * n / 255 for n in range(3)),
        accuracies=(0.8, 0.5, 0.0),
        intervals=tuple(wilson_interval(n, 100) for n in (80, 50, 0)),
        samples=100,
        passes_per_prediction=1,
        seed=0,
        findings=findings,
        seconds=1.0,
        date="",
        versions={},
    )


def test_bars_are_what_is_left(tmp_path):
    path = tmp_path / "report.png"
    (panel,) = plot_robustness_report(make_report(), path=path).axes
    assert [bar.get_height() for bar in panel.patches] == [0.8, 0.6, 0.5]
    labels = texts(panel.get_xticklabels())
    assert labels == ["clean", "attack 0", "attack 1"]
    whiskers = panel.collections[0].get_segments()
    for whisker, count in zip(whiskers, (80, 60, 50), strict=True):
        np.testing.assert_allclose(whisker[:, 1], wilson_interval(count, 100))
    assert panel.get_title().startswith("robust accuracy 50.0 %, linf")
    assert texts(panel.texts) == ["80.0", "60.0", "50.0"]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_findings_stand_in_the_figure():
    soft, odd = ("softmax", "soft"), ("black-box", "odd")
    report = make_report(findings=[soft, ("softmax", "again")])
    (panel,) = plot_robustness_report(report).axes
    assert panel.texts[-1].get_text() == "doubtful: softmax"
    sweeps = {"a": make_sweep(findings=[soft]), "b": make_sweep(findings=[odd])}
    (panel,) = plot_epsilon_sweep(sweeps).axes
    assert panel.texts[-1].get_text() == "doubtful: softmax, black-box"


def test_curve_is_the_sweep(tmp_path):
    path = tmp_path / "sweep.svg"
    (panel,) = plot_epsilon_sweep(make_sweep(), path=path).axes
    (line,) = panel.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(line.get_ydata(), [0.8, 0.5, 0.0])
    assert "1/255" in panel.get_xlabel()
    assert path.read_bytes().startswith(b"<?xml")
    (panel,) = plot_epsilon_sweep(make_sweep("l2")).axes
    np.testing.assert_allclose(panel.lines[0].get_xdata()[1], 1 / 255)
    assert panel.get_xlabel() == "epsilon, l2"


def test_several_sweeps_have_a_legend_and_the_grey_levels_of_their_bounds():
    sweeps = {"[0, 1]": make_sweep(), "[0, 255]": make_sweep(width=255)}
    figure = plot_epsilon_sweep(sweeps)
    assert figure.legends
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == list(sweeps)
    for line in lines:
        np.testing.assert_allclose(line.get_xdata(), [0, 1, 2])
    with pytest.raises(ValueError, match=r"Received: ranges 1, 255. Pass"):
        plot_epsilon_sweep(sweeps, in_grey_levels=False)


def test_refuses_what_cannot_be_drawn():
    with pytest.raises(TypeError, match=r"autoattack.*Received: dict"):
        plot_robustness_report({})
    with pytest.raises(TypeError, match=r"epsilon_sweep.*Received: list"):
        plot_epsilon_sweep([])
    with pytest.raises(ValueError, match=r"of one norm. Received: none"):
        plot_epsilon_sweep({})
    with pytest.raises(ValueError, match=r"of one norm. Received: l2, linf"):
        plot_epsilon_sweep({"a": make_sweep(), "b": make_sweep("l2")})

"""Curves of several runs: mean and range over seeds, panels, refusals."""

import numpy as np
import pytest

from keras_wake.visualization import plot_comparison

AT = [
    {"val_robust_accuracy": [0.1, 0.3, 0.2], "val_cas": [1.0, 3.0, 2.0]},
    {"val_robust_accuracy": [0.3, 0.3, 0.1], "val_cas": [2.0, 3.0, 1.0]},
]
WAKE = {"val_robust_accuracy": [0.1, 0.2, 0.3], "val_cas": [1.0, 2.0, 3.0]}


def test_mean_and_range_over_seeds():
    figure = plot_comparison({"AT": AT, "WAKE": WAKE})
    (panel,) = figure.axes
    at, wake = panel.get_lines()
    np.testing.assert_allclose(at.get_ydata(), [0.2, 0.3, 0.15])
    np.testing.assert_allclose(wake.get_ydata(), [0.1, 0.2, 0.3])
    assert list(at.get_xdata()) == [1, 2, 3]
    (band,) = panel.collections
    corners = {tuple(p) for p in band.get_paths()[0].vertices.round(6)}
    assert {(1, 0.1), (1, 0.3), (3, 0.1), (3, 0.2)} <= corners
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "AT (mean and range of 2 runs)",
        "WAKE",
    ]


def test_runs_differ_in_colour_and_line_style():
    (panel,) = plot_comparison({"AT": AT, "WAKE": WAKE}).axes
    at, wake = panel.get_lines()
    assert at.get_color() != wake.get_color()
    assert at.get_linestyle() != wake.get_linestyle()


def test_one_panel_per_key_and_marks_in_all():
    figure = plot_comparison(
        {"AT": AT, "WAKE": WAKE},
        keys=("val_robust_accuracy", "val_cas"),
        start_epoch=1,
        end_epoch=2,
    )
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["robust accuracy", "CAS"]
    assert all(len(panel.get_lines()) == 4 for panel in figure.axes)


def test_other_key():
    (panel,) = plot_comparison({"AT": {"lr": [0.1, 0.01]}}, key="lr").axes
    assert panel.get_ylabel() == "lr"


def test_seeds_are_averaged_over_the_epochs_that_all_have():
    runs = [{"val_cas": [1.0, None, 3.0, 4.0]}, {"val_cas": [3.0, 2.0, 5.0]}]
    (panel,) = plot_comparison({"AT": runs}, key="val_cas").axes
    (line,) = panel.get_lines()
    assert list(line.get_xdata()) == [1, 3]
    np.testing.assert_allclose(line.get_ydata(), [2.0, 4.0])


def test_run_without_one_of_the_keys_is_left_out_of_that_panel():
    standard = {"val_robust_accuracy": [0.0, 0.0]}
    upper, lower = plot_comparison(
        {"AT": AT, "standard": standard},
        keys=["val_robust_accuracy", "val_cas"],
    ).axes
    assert len(upper.get_lines()) == 2
    assert len(lower.get_lines()) == 1


@pytest.mark.parametrize(
    "histories, kwargs, message",
    [
        ({}, {}, "at least one named.*{}"),
        ([AT], {}, "dictionary"),
        ({"AT": []}, {}, r"histories\['AT'\].*\[\]"),
        ({"AT": "run"}, {}, r"histories\['AT'\].*'run'"),
        ({"AT": AT}, {"key": "nope"}, "'nope'.*'val_cas'"),
        ({"AT": AT, "x": {"loss": [1]}}, {}, r"histories\['x'\].*'loss'"),
        ({"AT": AT}, {"keys": "val_cas"}, "`keys`.*'val_cas'"),
        ({"AT": AT}, {"keys": []}, r"`keys`.*\[\]"),
        ({"AT": [*AT, {"loss": [1.0]}]}, {}, "Only 2 of the 3.*'AT'"),
        (
            {"AT": [{"val_cas": [1, None]}, {"val_cas": [None, 1]}]},
            {"key": "val_cas"},
            "'AT' have no epoch",
        ),
        ({"AT": AT}, {"start_epoch": 5, "end_epoch": 2}, "start_epoch=5"),
    ],
)
def test_bad_input_is_named(histories, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot_comparison(histories, **kwargs)

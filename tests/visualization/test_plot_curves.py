"""Curves of one run and of several: points, epochs, panels, refusals."""

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.visualization import plot_comparison
from keras_wake.visualization import plot_history

FULL = {
    "loss": [2.0, 1.5, 1.0, 0.5],
    "robust_accuracy": [0.1, 0.2, 0.3, 0.4],
    "val_accuracy": [0.2, 0.3, 0.4, 0.5],
    "val_robust_accuracy": [0.1, 0.2, 0.2, 0.1],
    "val_teacher_accuracy": [0.2, 0.3, 0.4, 0.4],
    "val_teacher_robust_accuracy": [0.1, 0.2, 0.25, 0.25],
    "val_cas": [1.0, 2.0, 3.0, 2.0],
    "val_teacher_cas": [1.0, 2.0, 2.5, 2.5],
}


def curves(figure):
    """All curves as {(panel, label): (epochs, values)}."""
    return {
        (index, line.get_label()): tuple(map(list, line.get_data()))
        for index, panel in enumerate(figure.axes)
        for line in panel.get_lines()
        if not line.get_label().startswith("_")
    }


def test_all_keys_are_drawn_over_epochs_from_one():
    found = curves(plot_history(FULL))
    assert len(found) == 7
    epochs, robust = [1, 2, 3, 4], FULL["val_teacher_robust_accuracy"]
    assert found[0, "teacher, robust"] == (epochs, robust)
    assert found[1, "student, CAS"] == (epochs, FULL["val_cas"])


def test_legend_names_each_network_once():
    (legend,) = plot_history(FULL).legends
    assert "teacher, robust" in texts(legend.get_texts())
    assert not any("CAS" in text for text in texts(legend.get_texts()))
    (legend,) = plot_history(
        {"val_accuracy": [0.1, 0.2], "val_teacher_cas": [1.0, 2.0]}
    ).legends
    assert texts(legend.get_texts()) == ["student, clean", "teacher, CAS"]


def test_missing_keys_leave_out_curves_and_panels():
    for key, label in (("val_accuracy", "clean"), ("val_cas", "CAS")):
        figure = plot_history({key: [0.3]})
        assert list(curves(figure)) == [(0, f"student, {label}")]
        # One epoch is visible.
        (line,) = figure.axes[0].get_lines()
        assert line.get_marker() == "o"


@pytest.mark.parametrize("missing", [None, float("nan"), "", "NA", "nan"])
def test_epochs_without_value_are_skipped(missing):
    history = {"val_accuracy": [missing, 0.3, missing, 0.5]}
    found = curves(plot_history(history))
    assert found[0, "student, clean"] == ([2, 4], [0.3, 0.5])


def test_validation_freq_places_the_values():
    history = {"loss": [1.0] * 5, "val_accuracy": [0.2, 0.4]}
    found = curves(plot_history(history, validation_freq=2))
    assert found[0, "student, clean"] == ([2, 4], [0.2, 0.4])
    with pytest.raises(ValueError, match=r"2 values of 'val_acc.*5 epochs"):
        plot_history(history)


def test_epochs_key_counts_from_one_and_epoch_key_from_zero():
    for epochs in ({"epochs": [11, 12]}, {"epoch": ["10", "11"]}):
        history = {"val_accuracy": ["0.2", "0.4"], **epochs}
        found = curves(plot_history(history))
        assert found[0, "student, clean"] == ([11, 12], [0.2, 0.4])


def test_rows_of_a_csv_file():
    rows = [
        {"epoch": "0", "loss": "1.0", "val_cas": "NA"},
        {"epoch": "1", "loss": "0.5", "val_cas": "7.5"},
    ]
    assert curves(plot_history(rows))[0, "student, CAS"] == ([2], [7.5])


def test_start_and_end_are_marked_in_both_panels():
    figure = plot_history(FULL, start_epoch=2, end_epoch=3)
    assert texts(figure.axes[0].texts) == ["$t_s$ = 2", "$t_e$ = 3"]
    for panel in figure.axes:
        marks = [
            line.get_xdata()[0]
            for line in panel.get_lines()
            if line.get_label().startswith("_")
        ]
        assert marks == [2, 3]
    # Marks beyond the run do not squeeze it.
    panel = plot_history(FULL, start_epoch=2, end_epoch=100).axes[0]
    assert panel.get_xlim()[1] < 5 and len(panel.texts) == 1


@pytest.mark.parametrize(
    "history, kwargs, message",
    [
        ({"loss": [1.0]}, {}, r"val_cas.*Received: keys \['loss'\]"),
        ({"val_cas": [None]}, {}, r"at least one of.*\['val_cas'\]"),
        ({"val_cas": [np.nan]}, {}, "at least one of"),
        ({}, {}, r"Received: keys \[\]"),
        (3, {}, "dictionary of lists.*Received: int"),
        ("val_cas", {}, "dictionary of lists.*Received: str"),
        ({"val_cas": ["high"]}, {}, "'val_cas'.*not a number.*'high'"),
        (FULL, {"start_epoch": 3, "end_epoch": 3}, "start_epoch=3, end_ep"),
        (FULL, {"start_epoch": -1}, "`start_epoch`.*-1"),
        (FULL, {"validation_freq": 0}, "`validation_freq`.*0"),
        (FULL, {"path": "curves.jpeg"}, "'curves.jpeg'"),
    ],
)
def test_bad_input_is_named(history, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history, **kwargs)


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
    assert at.get_color() != wake.get_color()
    assert at.get_linestyle() != wake.get_linestyle()
    (band,) = panel.collections
    corners = {tuple(p) for p in band.get_paths()[0].vertices.round(6)}
    assert {(1, 0.1), (1, 0.3), (3, 0.1), (3, 0.2)} <= corners
    (legend,) = figure.legends
    expected = ["AT (mean and range of 2 runs)", "WAKE"]
    assert texts(legend.get_texts()) == expected


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


def test_seeds_are_averaged_over_the_epochs_that_all_have():
    runs = [{"val_cas": [1.0, None, 3.0, 4.0]}, {"val_cas": [3.0, 2.0, 5.0]}]
    (panel,) = plot_comparison({"AT": runs}, key="val_cas").axes
    (line,) = panel.get_lines()
    assert list(line.get_xdata()) == [1, 3]
    np.testing.assert_allclose(line.get_ydata(), [2.0, 4.0])


def test_run_without_one_of_the_keys_is_left_out_of_that_panel():
    runs = {"AT": AT, "standard": {"val_robust_accuracy": [0.0, 0.0]}}
    figure = plot_comparison(runs, keys=["val_robust_accuracy", "val_cas"])
    assert [len(panel.get_lines()) for panel in figure.axes] == [2, 1]


@pytest.mark.parametrize(
    "histories, kwargs, message",
    [
        ({}, {}, "at least one named.*{}"),
        ([AT], {}, "dictionary"),
        ({"AT": []}, {}, r"histories\['AT'\].*\[\]"),
        ({"AT": "run"}, {}, r"histories\['AT'\].*'run'"),
        ({"AT": AT}, {"key": "nope"}, "'nope'.*'val_cas'"),
        ({"AT": AT}, {"key": ["val_cas"]}, "`key` must be a text"),
        ({"AT": AT, "x": {"loss": [1]}}, {}, r"histories\['x'\].*'loss'"),
        ({"AT": AT}, {"keys": "val_cas"}, "`keys`.*'val_cas'"),
        ({"AT": AT}, {"keys": []}, r"`keys`.*\[\]"),
        ({"AT": AT}, {"keys": 5}, "`keys` a list with"),
        ({"AT": [*AT, {"loss": [1.0]}]}, {}, "Only 2 of the 3.*'AT'"),
        (
            {"AT": [{"val_cas": [1, None]}, {"val_cas": [None, 1]}]},
            {"key": "val_cas"},
            "'AT' have no epoch",
        ),
        ({"AT": AT}, {"start_epoch": 5, "end_epoch": 2}, "start_epoch=5"),
    ],
)
def test_bad_input_of_a_comparison_is_named(histories, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot_comparison(histories, **kwargs)

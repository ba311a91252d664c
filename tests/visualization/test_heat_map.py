"""What the figures of matrices say of missing values, names and colours."""

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.utils.tables import shorten_all
from keras_wake.visualization import plot_class_report
from keras_wake.visualization import plot_correlation_difference
from keras_wake.visualization import plot_correlation_matrix
from keras_wake.visualization import plot_correlation_strip

LONG = [f"vehicles of the road, number {i}" for i in range(200)]


def matrix(classes, missing=()):
    values = np.full((classes, classes), 0.5)
    np.fill_diagonal(values, 1.0)
    for i in missing:
        values[i] = values[:, i] = np.nan
    return values


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "a dog"], ["cat", "a dog"]),
        (LONG[8:10], ["vehicles…umber 8", "vehicles…umber 9"]),
        (["n0000000017_an_object", "n0000000018_an_object"], ["…7…", "…8…"]),
        (["x" * 40, "x" * 41], ["…", "…x"]),
        (["same " * 9] * 2, ["same sam…e same "] * 2),
    ],
)
def test_long_names_stay_apart(names, expected):
    found = shorten_all(names, 16)
    assert found == expected
    assert all(len(name) <= 16 for name in found)


@pytest.mark.parametrize("classes", [10, 200])
@pytest.mark.parametrize("plot", ["matrix", "difference", "report"])
def test_text_below_a_map_stays_in_the_figure(classes, plot, make_report):
    missing = range(1, classes, 2)
    values = matrix(classes, missing)
    names = LONG[:classes]
    if plot == "matrix":
        figure = plot_correlation_matrix(values, names)
    elif plot == "difference":
        figure = plot_correlation_difference(values, values, names)
    else:
        report = make_report(classes, names=names, matrix=values)
        figure = plot_class_report(report)
    panel = figure.axes[2 if plot == "report" else 0]
    figure.draw_without_rendering()
    box, whole = panel.xaxis.label.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1
    assert whole.y0 <= box.y0
    text = panel.get_xlabel().replace("\n", " ").replace("\xa0", " ")
    assert "no attribution (NaN) for vehicles…umber 1" in text
    assert f" and {len(missing) - text.count('umber')} more" in text


@pytest.mark.parametrize(("classes", "look"), [(20, "hatched"), (21, "grey")])
def test_many_small_cells_are_not_hatched(classes, look):
    values = matrix(classes, [3])
    panel = plot_correlation_matrix(values).axes[0]
    assert bool(panel.patch.get_hatch()) == (look == "hatched")
    assert f"{look}: no attribution (NaN) for 3" in panel.get_xlabel()
    strip = plot_correlation_strip({1: values})
    assert strip.get_supxlabel() == f"{look}: no attribution (NaN)"
    values = matrix(classes)
    values[1, 2] = np.nan
    label = plot_correlation_matrix(values).axes[0].get_xlabel()
    assert label.endswith(f"\n{look}: 1 cells without a value (NaN)")


def test_colour_bar_tells_of_negative_values():
    values = matrix(3)
    label = "cosine similarity of attributions"
    for negative in (False, True):
        for figure in (
            plot_correlation_matrix(values),
            plot_correlation_strip({1: values}),
        ):
            found = figure.axes[-1].get_ylabel()
            assert found == label + (", clipped at 0" if negative else "")
        values[0, 1] = values[1, 0] = -0.3


@pytest.mark.filterwarnings("error")
def test_a_single_class_with_a_value_has_no_score():
    values = matrix(2, [1])
    assert plot_correlation_matrix(values).axes[0].get_title() == "no CAS"
    strip = plot_correlation_strip({1: values})
    assert strip.axes[0].get_title() == "epoch 1\nno CAS"
    figure = plot_correlation_difference(matrix(2), values)
    assert len(figure.axes) == 1  # No bar: its only value would be 1 − 1.
    assert figure.axes[0].get_title() == "no two classes have a value in both"


@pytest.mark.filterwarnings("error")
def test_difference_of_scores_is_over_the_same_entries():
    figure = plot_correlation_difference(matrix(4), matrix(4, [2]) * 0.5)
    # Six of twelve entries: 6 · 0.5 and 6 · 0.25.
    assert figure.axes[0].get_title() == (
        "CAS, best − last: 3.0 − 1.5 = 1.5\n"
        "over the 6 of 12 entries that both have"
    )


def test_long_names_of_a_strip_stand_at_the_rows():
    figure = plot_correlation_strip(
        {1: matrix(10), 2: matrix(10)}, class_names=LONG[:10], title="AT"
    )
    figure.draw_without_rendering()
    first, second = figure.axes[:2]
    assert texts(first.get_yticklabels())[0] == "vehicles…umber 0"
    for panel in (first, second):
        assert not any(texts(panel.get_xticklabels()))
    # The title is close above the panels, which use the room there is.
    top = first.title.get_window_extent().y1
    gap = figure._suptitle.get_window_extent().y0 - top
    assert 0 <= gap < 0.25 * figure.dpi
    short = plot_correlation_strip({1: matrix(3)}).axes[0]
    assert texts(short.get_xticklabels()) == ["0", "1", "2"]

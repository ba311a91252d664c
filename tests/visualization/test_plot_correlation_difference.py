"""The map of what was lost: values, colours around 0, refused input."""

import numpy as np
import pytest

from keras_wake.visualization import plot_correlation_difference

BEST = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]])
LAST = np.array([[1.0, 0.25, 0.5], [0.25, 1.0, 0.0], [0.5, 0.0, 1.0]])


def test_draws_best_minus_last_around_zero():
    figure = plot_correlation_difference(BEST, LAST, ["cat", "dog", "ship"])
    panel = figure.axes[0]
    image = panel.images[0]
    np.testing.assert_array_equal(image.get_array(), BEST - LAST)
    assert image.get_clim() == (-0.75, 0.75)
    assert panel.get_title() == "CAS, best − last: 3.0 − 1.5 = 1.5"
    assert [text.get_text() for text in panel.texts][:3] == [
        "0.00",
        "0.25",
        "-0.25",
    ]
    assert [label.get_text() for label in panel.get_xticklabels()] == [
        "cat",
        "dog",
        "ship",
    ]
    # Red is what was lost, blue what was gained, nearly white no change.
    red, blue, none = (
        image.cmap(image.norm(value)) for value in (0.75, -0.75, 0.0)
    )
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and min(none) > 0.95


def test_limit_and_title_may_be_given():
    figure = plot_correlation_difference(BEST, LAST, title="AT", vmax=0.5)
    assert figure.axes[0].images[0].get_clim() == (-0.5, 0.5)
    assert figure.axes[0].get_title() == "AT"
    assert figure.axes[1]._colorbar.extend == "max"


def test_equal_matrices_are_all_white():
    figure = plot_correlation_difference(BEST, BEST)
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_missing_in_either_is_missing():
    best, last = BEST.copy(), LAST.copy()
    best[0], best[:, 0] = np.nan, np.nan
    last[2], last[:, 2] = np.nan, np.nan
    panel = plot_correlation_difference(best, last).axes[0]
    shown = np.ma.getmaskarray(panel.images[0].get_array())
    np.testing.assert_array_equal(shown, ~np.diag([False, True, False]))
    assert "no attribution (NaN) for 0, 2" in panel.get_xlabel()
    assert len(panel.texts) == 1


@pytest.mark.parametrize(
    "classes", [pytest.param(100, marks=pytest.mark.slow), 200]
)
def test_many_classes_have_no_numbers(classes, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "difference.png"
    figure = plot_correlation_difference(
        rng.random((classes, classes)), np.eye(classes), path=path
    )
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticklabels()) <= 25
    assert path.stat().st_size < 1e6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"best": np.ones(3)}, r"`best` must be square.*shape \(3,\)"),
        ({"last": np.ones((2, 3))}, r"`last` must be square.*\(2, 3\)"),
        ({"last": np.eye(4)}, r"same classes.*\(3, 3\) and \(4, 4\)"),
        ({"vmax": 0.0}, "`vmax` must be greater than 0"),
        ({"class_names": ["a"]}, "3 classes"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        plot_correlation_difference(**{"best": BEST, "last": LAST} | change)

"""The heat map: what is written in it, missing classes, refused input."""

import itertools

import numpy as np
import pytest

from keras_wake.visualization import plot_correlation_matrix

MATRIX = np.array([[1.0, 0.25, -0.5], [0.25, 1.0, 0.75], [-0.5, 0.75, 1.0]])


def test_title_is_cas_and_cells_show_their_values():
    figure = plot_correlation_matrix(MATRIX)
    panel = figure.axes[0]
    # Both off-diagonal 0.25 and 0.75 count twice, -0.5 not at all.
    assert panel.get_title() == "CAS = 2.0"
    shown = [text.get_text() for text in panel.texts]
    assert shown[:3] == ["1.00", "0.25", "-0.50"]
    assert len(shown) == 9


def test_title_and_class_names_are_the_given_ones():
    figure = plot_correlation_matrix(
        MATRIX, class_names=["cat", "dog", "ship"], title="epoch 7"
    )
    panel = figure.axes[0]
    assert panel.get_title() == "epoch 7"
    for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["cat", "dog", "ship"]


def test_colours_cover_vmin_to_vmax():
    figure = plot_correlation_matrix(MATRIX, title="", vmin=-1.0, vmax=0.5)
    assert figure.axes[0].images[0].get_clim() == (-1.0, 0.5)


@pytest.mark.parametrize("classes, most", [(10, 10), (100, 25), (200, 25)])
def test_labels_are_thinned_where_they_would_collide(classes, most):
    figure = plot_correlation_matrix(np.eye(classes), title="identity")
    panel = figure.axes[0]
    labels = panel.get_xticklabels()
    assert 5 <= len(labels) <= most
    assert (len(panel.texts) > 0) == (classes == 10)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_missing_class_is_masked_and_named():
    matrix = MATRIX.copy()
    matrix[1], matrix[:, 1] = np.nan, np.nan
    figure = plot_correlation_matrix(
        matrix, class_names=["cat", "dog", "ship"], title=""
    )
    panel = figure.axes[0]
    np.testing.assert_array_equal(
        np.ma.getmaskarray(panel.images[0].get_array()), np.isnan(matrix)
    )
    assert panel.patch.get_hatch()
    assert "no attribution (NaN) for dog" in panel.get_xlabel()
    assert len(panel.texts) == 4


@pytest.mark.filterwarnings("error")
def test_cas_leaves_out_what_the_figure_says_is_missing():
    matrix = MATRIX.copy()
    matrix[0], matrix[:, 0] = np.nan, np.nan
    assert plot_correlation_matrix(matrix).axes[0].get_title() == "CAS = 1.5"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"matrix": np.ones((2, 3))}, r"square.*shape \(2, 3\)"),
        ({"matrix": np.ones(3)}, r"square.*shape \(3,\)"),
        ({"matrix": np.zeros((0, 0))}, r"square.*shape \(0, 0\)"),
        ({"matrix": [["a"]]}, "array of numbers"),
        ({"matrix": [[np.inf]]}, "1 infinite values"),
        ({"class_names": ["a"]}, r"3 classes.*Received 1.*\['a'\]"),
        ({"class_names": "abc"}, "a list with .* 3 classes.*'abc'"),
        ({"vmin": 1.0}, r"`vmin`.*vmin=1.0, vmax=1.0"),
        ({"path": "matrix.gif"}, r"\.png, \.pdf, \.svg.*'matrix.gif'"),
    ],
)
def test_bad_input_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot_correlation_matrix(**{"matrix": MATRIX, "title": ""} | kwargs)

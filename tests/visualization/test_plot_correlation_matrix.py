"""Heat maps: what is written in them, missing classes, refused input."""

import itertools

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.visualization import plot_correlation_difference
from keras_wake.visualization import plot_correlation_matrix
from keras_wake.visualization import plot_correlation_strip

MATRIX = np.array([[1.0, 0.25, -0.5], [0.25, 1.0, 0.75], [-0.5, 0.75, 1.0]])
BEST = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]])
LAST = np.array([[1.0, 0.25, 0.5], [0.25, 1.0, 0.0], [0.5, 0.0, 1.0]])
STRIP = {10: MATRIX, "best": MATRIX / 2, 200: np.eye(3)}
NAMES = ["cat", "dog", "ship"]


def without(matrix, missing):
    """A copy in which a class has no values."""
    matrix = matrix.copy()
    matrix[missing] = matrix[:, missing] = np.nan
    return matrix


def masked(panel):
    return np.ma.getmaskarray(panel.images[0].get_array())


def test_title_is_cas_and_cells_show_their_values():
    panel = plot_correlation_matrix(MATRIX).axes[0]
    # Both off-diagonal 0.25 and 0.75 count twice, -0.5 not at all.
    assert panel.get_title() == "CAS = 2.0"
    assert texts(panel.texts)[:3] == ["1.00", "0.25", "-0.50"]
    assert len(panel.texts) == 9


def test_title_names_and_limits_are_the_given_ones():
    figure = plot_correlation_matrix(
        MATRIX, class_names=NAMES, title="epoch 7", vmin=-1.0, vmax=0.5
    )
    panel = figure.axes[0]
    assert panel.get_title() == "epoch 7"
    assert texts(panel.get_xticklabels()) == NAMES
    assert texts(panel.get_yticklabels()) == NAMES
    assert panel.images[0].get_clim() == (-1.0, 0.5)


@pytest.mark.parametrize("classes, most", [(10, 10), (200, 25)])
def test_labels_are_thinned_where_they_would_collide(classes, most):
    figure = plot_correlation_matrix(np.eye(classes))
    panel = figure.axes[0]
    labels = panel.get_xticklabels()
    assert 5 <= len(labels) <= most
    assert bool(panel.texts) == (classes == 10)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_missing_class_is_masked_and_named():
    matrix = without(MATRIX, 1)
    panel = plot_correlation_matrix(matrix, class_names=NAMES).axes[0]
    # What the figure says is missing is left out.
    assert panel.get_title() == "CAS = 0.0"
    np.testing.assert_array_equal(masked(panel), np.isnan(matrix))
    assert panel.patch.get_hatch()
    assert "no attribution (NaN) for dog" in panel.get_xlabel()
    assert len(panel.texts) == 4


def test_draws_best_minus_last_around_zero():
    panel = plot_correlation_difference(BEST, LAST, NAMES).axes[0]
    image = panel.images[0]
    np.testing.assert_array_equal(image.get_array(), BEST - LAST)
    assert image.get_clim() == (-0.75, 0.75)
    assert panel.get_title() == "CAS, best − last: 3.0 − 1.5 = 1.5"
    assert texts(panel.texts)[:3] == ["0.00", "0.25", "-0.25"]
    assert texts(panel.get_xticklabels()) == NAMES
    # Red is what was lost, blue what was gained, nearly white no change.
    red, blue, none = image.cmap(image.norm([0.75, -0.75, 0.0]))
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and min(none) > 0.95


def test_limit_and_title_of_a_difference_may_be_given():
    figure = plot_correlation_difference(BEST, LAST, title="AT", vmax=0.5)
    assert figure.axes[0].images[0].get_clim() == (-0.5, 0.5)
    assert figure.axes[0].get_title() == "AT"
    assert figure.axes[1]._colorbar.extend == "max"
    # Equal matrices are all white.
    figure = plot_correlation_difference(BEST, BEST)
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_missing_in_either_is_missing():
    best, last = without(BEST, 0), without(LAST, 2)
    panel = plot_correlation_difference(best, last).axes[0]
    expected = ~np.diag([False, True, False])
    np.testing.assert_array_equal(masked(panel), expected)
    assert "no attribution (NaN) for 0, 2" in panel.get_xlabel()
    assert len(panel.texts) == 1


def panels_of(figure):
    """The panels without the colour bar."""
    return [axes for axes in figure.axes if axes.get_title()]


def test_titles_tell_epoch_robust_accuracy_and_cas():
    figure = plot_correlation_strip(
        STRIP, robust_accuracy={10: 0.369, 200: np.float32(0.425)}
    )
    assert [panel.get_title() for panel in panels_of(figure)] == [
        "epoch 10\nRA 36.9 %, CAS 2.0",
        "best\nCAS 1.0",
        "epoch 200\nRA 42.5 %, CAS 0.0",
    ]
    assert figure.get_suptitle() == ""
    assert plot_correlation_strip(STRIP, title="AT").get_suptitle() == "AT"


def test_panels_share_the_colours_of_one_bar():
    figure = plot_correlation_strip(STRIP, vmax=0.5)
    panels = panels_of(figure)
    assert len(figure.axes) == len(panels) + 1
    for panel, matrix in zip(panels, STRIP.values(), strict=True):
        assert panel.images[0].get_clim() == (0.0, 0.5)
        np.testing.assert_array_equal(panel.images[0].get_array(), matrix)
    # -0.5 and the diagonal lie beyond the bar.
    assert figure.axes[-1]._colorbar.extend == "both"


@pytest.mark.parametrize("count", [5, 6])
def test_goes_on_in_further_rows(count):
    figure = plot_correlation_strip(dict.fromkeys(range(1, count + 1), MATRIX))
    figure.draw_without_rendering()
    panels = panels_of(figure)
    assert len(panels) == count
    tops = {round(panel.get_position().y1, 3) for panel in panels}
    assert len(tops) == -(-count // 5)


@pytest.mark.parametrize(
    ("classes", "named"), [(10, True), (200, True), (200, False)]
)
def test_names_do_not_collide(classes, named):
    names = [f"class {i:03d}" for i in range(classes)] if named else None
    figure = plot_correlation_strip(
        dict.fromkeys((1, 2), np.eye(classes)), class_names=names
    )
    figure.draw_without_rendering()
    first, second = panels_of(figure)
    assert not first.texts
    labels = first.get_yticklabels()
    assert 5 <= len(labels) <= 12
    boxes = [label.get_window_extent() for label in labels]
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 > lower.y1
    # Only the first panel of a row names the classes i.
    visible = [t for t in second.get_yticklabels() if t.get_visible()]
    assert not any(texts(visible))


@pytest.mark.filterwarnings("error")
def test_missing_class_of_a_strip_is_hatched_and_mentioned():
    matrix = without(MATRIX, 1)
    figure = plot_correlation_strip({1: MATRIX, 2: matrix})
    assert "NaN" in figure.get_supxlabel()
    first, second = panels_of(figure)
    assert second.patch.get_hatch()
    np.testing.assert_array_equal(masked(second), np.isnan(matrix))
    assert not masked(first).any()
    assert plot_correlation_strip({1: MATRIX}).get_supxlabel() == ""


def test_file_of_many_classes_is_small(tmp_path):
    path = tmp_path / "strip.png"
    # Noise, which is what PNG packs worst.
    noise = np.random.default_rng(0).random((3, 200, 200))
    plot_correlation_strip(dict(enumerate(noise, start=1)), path=path)
    assert path.stat().st_size < 1e6


PLOTS = {
    "matrix": (plot_correlation_matrix, {"matrix": MATRIX}),
    "difference": (plot_correlation_difference, {"best": BEST, "last": LAST}),
    "strip": (plot_correlation_strip, {"matrices": STRIP}),
}


@pytest.mark.parametrize(
    ("plot", "change", "message"),
    [
        ("matrix", {"matrix": np.ones((2, 3))}, r"square.*shape \(2, 3\)"),
        ("matrix", {"matrix": np.ones(3)}, r"square.*shape \(3,\)"),
        ("matrix", {"matrix": np.zeros((0, 0))}, r"square.*shape \(0, 0\)"),
        ("matrix", {"matrix": [["a"]]}, "array of numbers"),
        (
            "matrix",
            {"matrix": 1j * np.eye(2)},
            "`matrix` must be an array of numbers.*complex",
        ),
        ("matrix", {"matrix": [[np.inf]]}, "1 infinite values"),
        ("matrix", {"class_names": ["a"]}, r"3 classes.*Received 1.*\['a'\]"),
        ("matrix", {"class_names": "abc"}, "a list with .* 3 classes.*'abc'"),
        ("matrix", {"vmin": 1.0}, r"`vmin`.*vmin=1.0, vmax=1.0"),
        ("matrix", {"path": "m.gif"}, r"\.png, \.pdf, \.svg.*'m.gif'"),
        (
            "difference",
            {"best": np.ones(3)},
            r"`best` must be square.*shape \(3,\)",
        ),
        (
            "difference",
            {"last": np.ones((2, 3))},
            r"`last` must be square.*\(2, 3\)",
        ),
        (
            "difference",
            {"last": np.eye(4)},
            r"same classes.*\(3, 3\) and \(4, 4\)",
        ),
        ("difference", {"vmax": 0.0}, "`vmax` must be greater than 0"),
        ("difference", {"class_names": ["a"]}, "3 classes"),
        ("strip", {"matrices": {}}, "dictionary of matrices.*dict"),
        ("strip", {"matrices": [MATRIX]}, "dictionary.*Received: list"),
        ("strip", {"matrices": {1: np.ones((2, 3))}}, r"square.*\(2, 3\)"),
        (
            "strip",
            {"matrices": {1: MATRIX, 2: np.eye(4)}},
            r"same classes.*1: \(3, 3\), 2: \(4, 4\)",
        ),
        (
            "strip",
            {"robust_accuracy": [0.3]},
            r"dictionary.*Received: \[0\.3\]",
        ),
        ("strip", {"robust_accuracy": {7: 0.3}}, r"200\].*\{7: 0\.3\}"),
        ("strip", {"robust_accuracy": {10: 36.9}}, "0 and 1.*fraction"),
        ("strip", {"class_names": ["a"]}, "3 classes"),
        ("strip", {"vmax": 0.0}, "`vmin` must be less than `vmax`"),
    ],
)
def test_bad_input_is_named(plot, change, message):
    draw, given = PLOTS[plot]
    with pytest.raises(ValueError, match=message):
        draw(**given | change)


def test_robust_accuracy_of_text_is_refused():
    message = "`robust_accuracy` must be a real number"
    with pytest.raises(TypeError, match=message):
        plot_correlation_strip(STRIP, robust_accuracy={10: "high"})

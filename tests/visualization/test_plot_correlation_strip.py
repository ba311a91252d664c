"""The strip of matrices: titles, shared colours, many classes, bad input."""

import itertools

import numpy as np
import pytest

from keras_wake.visualization import plot_correlation_strip

FIRST = np.array([[1.0, 0.25, -0.5], [0.25, 1.0, 0.75], [-0.5, 0.75, 1.0]])
LAST = np.eye(3)
STRIP = {10: FIRST, "best": FIRST / 2, 200: LAST}


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


@pytest.mark.parametrize("count", [1, 5, 6, 11])
def test_goes_on_in_further_rows(count):
    figure = plot_correlation_strip(dict.fromkeys(range(1, count + 1), FIRST))
    figure.draw_without_rendering()
    panels = panels_of(figure)
    assert len(panels) == count
    tops = {round(panel.get_position().y1, 3) for panel in panels}
    assert len(tops) == -(-count // 5)


@pytest.mark.parametrize(
    "classes", [10, pytest.param(100, marks=pytest.mark.slow), 200]
)
@pytest.mark.parametrize("named", [True, False])
def test_names_do_not_collide(classes, named):
    names = [f"class {i:03d}" for i in range(classes)] if named else None
    figure = plot_correlation_strip(
        dict.fromkeys((1, 2, 3), np.eye(classes)), class_names=names
    )
    figure.draw_without_rendering()
    panel = panels_of(figure)[0]
    assert not panel.texts
    labels = panel.get_yticklabels()
    assert 5 <= len(labels) <= 12
    boxes = [label.get_window_extent() for label in labels]
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 > lower.y1
    # Only the first panel of a row names the classes i.
    assert not any(
        label.get_visible() and label.get_text()
        for label in panels_of(figure)[1].get_yticklabels()
    )


@pytest.mark.filterwarnings("error")
def test_missing_class_is_hatched_and_mentioned():
    matrix = FIRST.copy()
    matrix[1], matrix[:, 1] = np.nan, np.nan
    figure = plot_correlation_strip({1: FIRST, 2: matrix})
    assert "NaN" in figure.get_supxlabel()
    first, second = panels_of(figure)
    assert second.patch.get_hatch()
    np.testing.assert_array_equal(
        np.ma.getmaskarray(second.images[0].get_array()), np.isnan(matrix)
    )
    assert not np.ma.getmaskarray(first.images[0].get_array()).any()
    assert plot_correlation_strip({1: FIRST}).get_supxlabel() == ""


def test_file_of_many_classes_is_small(tmp_path):
    path = tmp_path / "strip.png"
    rng = np.random.default_rng(0)
    # Noise, which is what PNG packs worst.
    plot_correlation_strip(
        {epoch: rng.random((200, 200)) for epoch in (1, 2, 3)}, path=path
    )
    assert path.stat().st_size < 1e6


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"matrices": {}}, ValueError, "dictionary of matrices.*dict"),
        ({"matrices": [FIRST]}, ValueError, "dictionary.*Received: list"),
        ({"matrices": {1: np.ones((2, 3))}}, ValueError, r"square.*\(2, 3\)"),
        (
            {"matrices": {1: FIRST, 2: np.eye(4)}},
            ValueError,
            r"same classes.*1: \(3, 3\), 2: \(4, 4\)",
        ),
        (
            {"robust_accuracy": [0.3]},
            ValueError,
            r"dictionary.*Received: \[0\.3\]",
        ),
        ({"robust_accuracy": {7: 0.3}}, ValueError, r"200\].*\{7: 0\.3\}"),
        ({"robust_accuracy": {10: 36.9}}, ValueError, "0 and 1.*fraction"),
        ({"class_names": ["a"]}, ValueError, "3 classes"),
        ({"vmax": 0.0}, ValueError, "`vmin` must be less than `vmax`"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        plot_correlation_strip(**{"matrices": STRIP} | change)

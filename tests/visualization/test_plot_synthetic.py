"""Figure of the synthetic model: curves, marks, points, refusals."""

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.theory import SyntheticModel
from keras_wake.visualization import plot_synthetic

# σ = √π / 2: ε0 = 0.25 and, with β = 0.2, ε1 = 0.375.
MODEL = SyntheticModel(mu=1.0, sigma=np.sqrt(np.pi) / 2, weight_decay=2.0)
POINTS = [(0.1, 0.15, 0.27), (0.4, 0.0, np.nan)]


def lines(figure):
    (panel,) = figure.axes
    return {line.get_label(): line for line in panel.get_lines()}


def test_curves_are_the_closed_form():
    found = lines(plot_synthetic(MODEL, 0.2))
    plain = found["$w_2^*$, no label smoothing"]
    smoothed = found["$w_2^{\\mathrm{LS}}$, $\\beta$ = 0.2"]
    radii = plain.get_xdata()
    assert radii[0] == 0 and 0.49 < radii[-1] < 0.5
    expected = np.maximum(0, (0.5 - 2 * radii) / 2)
    np.testing.assert_allclose(plain.get_ydata(), expected, atol=1e-12)
    expected = np.maximum(0, (1 - 0.8 * (2 * radii + 0.5)) / 2)
    np.testing.assert_allclose(smoothed.get_ydata(), expected, atol=1e-12)


def test_critical_radii_in_the_range_are_marked():
    marks = ["$\\varepsilon_0$ = 0.25", "$\\varepsilon_1$ = 0.375"]
    (panel,) = plot_synthetic(MODEL, 0.2).axes
    assert texts(panel.texts) == marks
    vertical = [line.get_xdata() for line in panel.get_lines()[2:]]
    np.testing.assert_allclose(vertical, [[0.25, 0.25], [0.375, 0.375]])
    (panel,) = plot_synthetic(MODEL, 0.5).axes
    assert texts(panel.texts) == marks[:1]


def test_points_lie_where_they_were_found():
    figure = plot_synthetic(MODEL, 0.2, points={"Monte Carlo": POINTS})
    (panel,) = figure.axes
    drawn = [
        line
        for line in panel.get_lines()
        if line.get_linestyle() == "None" and len(line.get_xdata())
    ]
    assert len(drawn) == 2
    for column, line in enumerate(drawn, start=1):
        curve = panel.get_lines()[column - 1]
        assert line.get_color() == curve.get_color()
        expected = np.array(POINTS)[:, [0, column]]
        np.testing.assert_array_equal(line.get_xydata(), expected)
    names = texts(panel.get_legend().get_texts())
    assert names[2:] == ["Monte Carlo"]


def test_kinds_of_points_differ_in_marker():
    figure = plot_synthetic(MODEL, 0.2, points={"a": POINTS, "b": POINTS})
    found = lines(figure)
    assert found["a"].get_marker() != found["b"].get_marker()


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "message"),
    [
        (1.0, {}, TypeError, "SyntheticModel.*model=1.0"),
        (MODEL, {"label_smoothing": 0}, ValueError, "label_smoothing=0"),
        (MODEL, {"label_smoothing": 1}, ValueError, "label_smoothing=1"),
        (
            MODEL,
            {"points": {"a": [(0.1, 0.2)]}},
            ValueError,
            r"points\['a'\].*\(P, 3\).*\(1, 2\)",
        ),
        (MODEL, {"points": {"a": "b"}}, ValueError, "`points`"),
        (MODEL, {"points": [1]}, TypeError, "`points` must be a dictionary"),
        (MODEL, {"path": "figure.txt"}, ValueError, "figure.txt"),
    ],
)
def test_bad_input_is_named(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        plot_synthetic(model, **kwargs)

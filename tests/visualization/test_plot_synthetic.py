"""Figure of the synthetic model: curves, marks, points, refusals."""

import numpy as np
import pytest

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
    np.testing.assert_allclose(
        plain.get_ydata(), np.maximum(0, (0.5 - 2 * radii) / 2), atol=1e-12
    )
    np.testing.assert_allclose(
        smoothed.get_ydata(),
        np.maximum(0, (1 - 0.8 * (2 * radii + 0.5)) / 2),
        atol=1e-12,
    )


def marks(figure):
    (panel,) = figure.axes
    return [text.get_text() for text in panel.texts]


def test_critical_radii_are_marked():
    figure = plot_synthetic(MODEL, 0.2)
    assert marks(figure) == [
        "$\\varepsilon_0$ = 0.25",
        "$\\varepsilon_1$ = 0.375",
    ]
    (panel,) = figure.axes
    vertical = [line.get_xdata() for line in panel.get_lines()[2:]]
    np.testing.assert_allclose(vertical, [[0.25, 0.25], [0.375, 0.375]])


def test_a_critical_radius_out_of_range_is_not_marked():
    assert marks(plot_synthetic(MODEL, 0.5)) == ["$\\varepsilon_0$ = 0.25"]


def test_points_lie_where_they_were_found():
    figure = plot_synthetic(MODEL, 0.2, points={"Monte Carlo": POINTS})
    (panel,) = figure.axes
    drawn = [
        (line.get_color(), line.get_xydata())
        for line in panel.get_lines()
        if line.get_linestyle() == "None" and len(line.get_xdata())
    ]
    curves = panel.get_lines()[:2]
    for column, ((color, points), curve) in enumerate(
        zip(drawn, curves, strict=True), start=1
    ):
        assert color == curve.get_color()
        np.testing.assert_array_equal(points, np.array(POINTS)[:, [0, column]])
    names = [text.get_text() for text in panel.get_legend().get_texts()]
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
        (MODEL, {"path": "figure.txt"}, ValueError, "figure.txt"),
    ],
)
def test_bad_input_is_named(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        plot_synthetic(model, **kwargs)

"""The grid of images: what is shown, what is written, refused input."""

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.visualization import plot_adversarial_examples


def samples(count=3, channels=3, epsilon=8 / 255):
    """Images that leave room for the perturbation on both sides."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (count, 4, 4, channels))
    signs = rng.choice([-1.0, 0.0, 1.0], images.shape)
    signs[:, 0, 0] = 1.0
    return {
        "images": images.astype("float32"),
        "adversarial": (images + epsilon * signs).astype("float32"),
        "labels": np.arange(count) % 3,
        "predictions": np.arange(count) % 3,
        "adversarial_predictions": np.zeros(count, "int64"),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_perturbation_is_magnified_around_mid_grey(channels):
    data = samples(channels=channels)
    figure = plot_adversarial_examples(**data)
    assert len(figure.axes) == 9
    # 0.5 / (8 / 255) = 15.9, rounded down so that nothing is cut off.
    assert figure.axes[3].get_ylabel() == "perturbation\n× 15"
    shown = figure.axes[3].images[0]
    expected = 0.5 + 15 * (data["adversarial"][0] - data["images"][0])
    if channels == 1:
        expected = expected[..., 0]
    np.testing.assert_allclose(shown.get_array(), expected, atol=1e-5)
    assert shown.get_clim() == (0.0, 1.0)


def test_wrong_predictions_are_red_and_crossed():
    names = ["cat", "dog", "ship"]
    axes = plot_adversarial_examples(**samples(), class_names=names).axes
    titles = [panel.get_title() for panel in axes[:3]]
    assert titles == ["true: cat", "true: dog", "true: ship"]
    assert [panel.get_xlabel() for panel in axes[:3]] == names
    attacked = [panel.xaxis.label for panel in axes[6:]]
    assert texts(attacked) == ["cat", "✗ cat", "✗ cat"]
    colors = [label.get_color() for label in attacked]
    assert colors[0] == "black"
    assert colors[1] == colors[2] != "black"


def test_one_hot_labels_and_logits_are_understood():
    data = samples()
    for key in ("labels", "predictions", "adversarial_predictions"):
        data[key] = 4.0 * np.eye(3)[data[key]]
    figure = plot_adversarial_examples(**data)
    labels = [panel.get_xlabel() for panel in figure.axes[6:]]
    assert labels == ["0", "✗ 0", "✗ 0"]


@pytest.mark.parametrize("count, panels", [(1, 3), (8, 24), (11, 48)])
def test_many_samples_go_on_in_further_bands(count, panels):
    figure = plot_adversarial_examples(**samples(count))
    assert len(figure.axes) == panels
    drawn = [panel for panel in figure.axes if panel.images]
    assert len(drawn) == 3 * count


@pytest.mark.parametrize(
    "epsilon, magnify, text",
    [
        (0.2, None, "2.5"),
        (0.0, None, "1"),
        (8 / 256, None, "16"),
        (0.2, 3.0, "3"),
        (0.39, None, "1.2"),
    ],
)
def test_factor_is_stated(epsilon, magnify, text):
    figure = plot_adversarial_examples(
        **samples(1, epsilon=epsilon), magnify=magnify
    )
    assert figure.axes[1].get_ylabel() == f"perturbation\n× {text}"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((3, 4, 4))}, r"`images`.*shape \(3, 4, 4\)"),
        ({"images": np.zeros((3, 4, 4, 2))}, r"channels.*\(3, 4, 4, 2\)"),
        ({"images": np.zeros((0, 4, 4, 3))}, "`images`.*between 1 and 32"),
        ({"images": np.zeros((33, 4, 4, 3))}, r"between 1 and 32.*\(33, "),
        ({"images": np.full((3, 4, 4, 3), 255)}, "from 255 to 255"),
        ({"adversarial": np.full((3, 4, 4, 3), np.nan)}, "`adv.*nan"),
        ({"adversarial": np.zeros((2, 4, 4, 3))}, "same shape"),
        ({"labels": [0, 1]}, r"`labels`.*\(3, K\).*shape \(2,\)"),
        ({"predictions": [0.5, 1, 2]}, "`predictions`.*0.5"),
        ({"adversarial_predictions": [-1, 0, 1]}, "`adv.*-1"),
        ({"class_names": ["cat"]}, r"up to number 2.*\['cat'\]"),
        ({"class_names": "abc"}, "a list of names.*'abc'"),
        ({"magnify": 0}, "`magnify`.*0"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        plot_adversarial_examples(**samples() | change)


def test_rounding_outside_the_bounds_is_no_error():
    data = samples()
    data["images"][0, 0, 0, 0] = -5e-7
    data["adversarial"][0, 0, 0, 1] = 1 + 5e-7
    assert plot_adversarial_examples(**data).axes

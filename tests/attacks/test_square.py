"""Square: its schedule, its windows, its queries, and what it finds."""

import keras
import numpy as np
import pytest
from attack_cases import linear_classifier
from attack_cases import norms
from attack_cases import tiny_network
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from small import network

from keras_wake.attacks import Square
from keras_wake.attacks import square_windows
from keras_wake.utils.seeds import SampleSeed

# The published schedule for 10,000 queries: from which query on p_init is
# divided by 1, 2, 4, ….
PUBLISHED = (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)


def test_the_schedule_is_stretched_to_the_queries():
    side = 3200
    found = square_windows.window_sides(
        5000, 0.8, side, side, False, stretched=True
    )
    changes = [0, *(np.flatnonzero(np.diff(found)) + 1)]
    # Query i counts as query 2 i of 10,000.
    assert changes == [-(-start // 2) for start in PUBLISHED]


@pytest.mark.parametrize("queries", [5000, 12_000])
def test_the_schedule_of_the_standard_is_not_stretched(queries):
    # The published p, which a query decides on by its number alone.
    later = np.arange(queries)[:, None] >= PUBLISHED[1:]
    sides = np.sqrt(0.8 / 2 ** later.sum(axis=1) * 32 * 32)
    attack = Square(queries=queries)
    assert not attack.stretch_schedule
    windows = attack._windows((32, 32, 3))
    np.testing.assert_array_equal(windows.sides, np.maximum(sides.round(), 1))


def test_the_schedule_is_that_of_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    torch = pytest.importorskip("torch")
    theirs = torchattacks.Square(torch.nn.Identity(), n_queries=5000)
    theirs.rescale_schedule = False
    sides = square_windows.window_sides(5000, 0.8, 64, 64, smooth=False)
    expected = [
        max(round((theirs.p_selection(query) * 64 * 64) ** 0.5), 1)
        for query in range(5000)
    ]
    np.testing.assert_array_equal(sides, expected)


def test_a_config_of_before_keeps_its_schedule():
    config = Square(queries=500).get_config()
    assert config["stretch_schedule"] is False
    assert not Square.from_config(config).stretch_schedule
    del config["stretch_schedule"]
    assert Square.from_config(config).stretch_schedule


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 8), (28, 28), (32, 20)])
def test_windows_fit_into_the_image(size):
    for smooth in (False, True):
        sides = square_windows.window_sides(300, 1.0, *size, smooth)
        assert sides.min() >= 1 and sides.max() <= min(size)
        assert np.all(np.diff(sides) <= 0)
        if smooth and min(size) > 3:
            inner = sides[sides < min(size)]
            assert np.all(inner % 2 == 1) and inner.min() >= 3


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 9])
def test_a_smooth_window_follows_its_formula(side):
    expected = np.zeros((side, side))
    upper = side // 2
    for sign, first, rows in ((1, 0, upper), (-1, upper, side - upper)):
        row, column = np.ogrid[:rows, :side]
        away = np.maximum(abs(row - rows // 2), abs(column - side // 2))
        last = max(rows, side) // 2
        bump = sum((away <= m) / (m + 1) ** 2 for m in range(last + 1))
        if rows:
            bump /= np.linalg.norm(bump)
        expected[first : first + rows] = sign * bump
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(
        square_windows.smooth_window(side), expected, atol=1e-6
    )


def test_linf_starts_from_stripes_and_changes_squares():
    windows = Square("linf", 0.5, queries=40)._windows((10, 8, 3))
    seed = SampleSeed(0, np.arange(20))
    start = to_numpy(windows.start(seed.uniform(0, (windows.num_start_draws,))))
    assert start.shape == (20, 10, 8, 3)
    np.testing.assert_array_equal(np.unique(start), np.float32([-0.5, 0.5]))
    # Columns of one colour, of which all 24 are drawn.
    np.testing.assert_array_equal(start, np.repeat(start[:, :1], 10, axis=1))
    assert 0.4 < np.mean(start > 0) < 0.6

    for query in (1, 20, 39):
        draws = seed.uniform(query, (windows.num_draws,))
        delta = ops.zeros((20, 10, 8, 3))
        changed = to_numpy(windows.changed(delta, draws, query))
        side = windows.sides[query]
        for image in changed:
            rows, columns = (
                np.flatnonzero(np.any(image != 0, axis=(axis, 2)))
                for axis in (1, 0)
            )
            assert len(rows) == len(columns) == side
            assert np.ptp(rows) == np.ptp(columns) == side - 1
            inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.testing.assert_array_equal(np.abs(inside), 0.5)
            # Each channel has one sign.
            assert np.all(inside == inside[:1, :1])


def _l2_step(delta, draws, side, epsilon):
    """A step of the published attack (its algorithm 3), image by image."""
    height, width, channels = delta.shape
    places = [
        int(draw * (size - side + 1))
        for draw, size in zip(draws[:4], (height, width) * 2, strict=True)
    ]
    first, second = (
        np.s_[row : row + side, column : column + side]
        for row, column in (places[:2], places[2:])
    )
    either = np.zeros((height, width), bool)
    either[first] = either[second] = True
    pattern = np.float64(square_windows.smooth_window(side))
    pattern = pattern if draws[4] < 0.5 else pattern.T
    result = delta.copy()
    result[second] = 0
    spare = max(epsilon**2 - (delta**2).sum(), 0)
    for channel in range(channels):
        inside = delta[..., channel][first]
        new = pattern * (-1 if draws[5 + channel] < 0.5 else 1)
        new = new + inside / (1e-12 + np.linalg.norm(inside))
        budget = spare / channels + (delta[either][:, channel] ** 2).sum()
        new = new / np.linalg.norm(new) * np.sqrt(budget)
        result[..., channel][first] = new
    return epsilon * result / np.linalg.norm(result)


@pytest.mark.parametrize("length", [1.0, 0.7])
def test_an_l2_step_is_the_published_one(length):
    windows = Square("l2", 0.5, queries=40)._windows((10, 8, 3))
    seed = SampleSeed(0, np.arange(20))
    delta = windows.start(seed.uniform(0, (windows.num_start_draws,)))
    assert tuple(delta.shape) == (20, 10, 8, 3)
    np.testing.assert_allclose(norms(to_numpy(delta), "l2"), 0.5, rtol=1e-4)
    # Of a shorter one, as after the bounds, the step spends the rest.
    delta = length * delta
    for query in (1, 10, 39):
        draws = seed.uniform(query, (windows.num_draws,))
        found = to_numpy(windows.changed(delta, draws, query))
        side = windows.sides[query]
        expected = [
            _l2_step(np.float64(before), drawn, side, 0.5)
            for before, drawn in zip(
                to_numpy(delta), to_numpy(draws), strict=True
            )
        ]
        # Float32 against float64; seen: 5e-8.
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_calls_the_classifier_once_for_each_query():
    attack = Square(epsilon=0.1, queries=17)
    assert attack.passes(10) == (17, 0)
    if keras.backend.backend() == "jax":
        pytest.skip("a loop is traced, and its calls cannot be counted")
    calls = []

    def counted(x, training=False):
        calls.append(len(x))
        total = ops.sum(x, axis=(1, 2, 3))[:, None]
        # Class 0 by far, whatever x is.
        return ops.concatenate([total + 100, total], axis=1)

    x = ops.full((2, 5, 5, 1), 0.5)
    labels = ops.one_hot(np.zeros(2, "int32"), 2)
    run = SampleSeed(0, [0, 1]), ops.zeros((), "int32")
    attack.run_stage(counted, x, labels, *run)
    assert calls == [2] * 17

    # And ends when all are misclassified: here, by the first query.
    calls.clear()
    attack.run_stage(counted, x, 1 - labels, *run)
    assert calls == [2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_comes_near_the_optimum_of_a_linear_model(norm):
    weights = np.random.default_rng(0).normal(size=25).astype("float32")
    kernel = np.stack([0 * weights, weights], axis=1)
    # The bias keeps the images right, so that the search does not end early.
    head = linear_classifier(kernel, np.float32([50, 0]))
    classifier = keras.Sequential(
        [keras.Input((5, 5, 1)), keras.layers.Flatten(), head]
    )
    x = np.full((4, 5, 5, 1), 0.5, "float32")
    epsilon = {"linf": 0.1, "l2": 0.5}[norm]
    # So few queries see small windows only if the schedule is stretched.
    attack = Square(norm, epsilon, queries=400, stretch_schedule=True)
    found = attack(classifier, x, np.zeros(4, "int32"), seed=0)
    gained = (to_numpy(found) - x).reshape(4, 25) @ weights
    dual = np.linalg.norm(weights, 1 if norm == "linf" else 2)
    share = {"linf": 0.95, "l2": 0.7}[norm]
    assert np.all(gained <= epsilon * dual * (1 + 1e-5))
    assert np.all(gained >= share * epsilon * dual)


def test_takes_channels_first(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.random((3, 6, 5, 2)).astype("float32")
    tiny = tiny_network(60, 3, 0)

    def channels_first(x, training=False):
        return tiny(ops.transpose(x, (0, 2, 3, 1)))

    labels = np.eye(3, dtype="float32")[np.argmax(to_numpy(tiny(x)), axis=1)]
    attack = Square("l2", 0.2, queries=10)
    seed = SampleSeed(0, np.arange(3))
    expected = to_numpy(attack.perturb(tiny, x, labels, seed))
    monkeypatch.setattr(
        keras.config, "image_data_format", lambda: "channels_first"
    )
    first = x.transpose(0, 3, 1, 2).copy()
    found = to_numpy(attack.perturb(channels_first, first, labels, seed))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_refuses_what_has_no_windows():
    classifier = network(shape=(12,))
    x = np.full((2, 12), 0.5, "float32")
    # Misclassified images would end the search before the first window.
    labels = np.argmax(to_numpy(classifier(x)), axis=1)
    with pytest.raises(
        ValueError,
        match=r"windows of images and needs images of shape \(batch, height, "
        r"width, channels\), or .*Received: images of shape \(12,\)",
    ):
        Square(queries=3)(classifier, x, labels, seed=0)

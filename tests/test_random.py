"""Seeds that are a function of a stream and a position in it."""

import keras
import numpy as np

from keras_wake._random import CounterSeed


def _draw(*arguments):
    return np.asarray(keras.random.uniform((4,), seed=CounterSeed(*arguments)))


def test_repeats_itself_for_the_same_seed_and_counter():
    np.testing.assert_array_equal(_draw(1, 2), _draw(1, 2))


def test_differs_with_seed_counter_and_draw():
    seed = CounterSeed(1, 0)
    draws = [np.asarray(keras.random.uniform((4,), seed=seed)) for _ in "abc"]
    draws += [_draw(1, 1), _draw(1, 2), _draw(2, 0), _draw(0, 1)]
    assert len({tuple(draw) for draw in draws}) == len(draws)


def test_has_no_variable():
    # A variable made inside a compiled step would be an error.
    assert not hasattr(CounterSeed(1), "state")

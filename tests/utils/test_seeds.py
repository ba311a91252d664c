"""Seeds that are a function of a stream and a position in it."""

import itertools

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.seeds import SampleSeed

MASK = 2**32 - 1


def _draw(*arguments):
    return np.asarray(keras.random.uniform((4,), seed=CounterSeed(*arguments)))


def test_seed_counter_and_draw_decide():
    np.testing.assert_array_equal(_draw(1, 2), _draw(1, 2))
    seed = CounterSeed(1, 0)
    draws = [np.asarray(keras.random.uniform((4,), seed=seed)) for _ in "abc"]
    draws += [_draw(1, 1), _draw(1, 2), _draw(2, 0), _draw(0, 1)]
    assert len({tuple(draw) for draw in draws}) == len(draws)
    # A variable made inside a compiled step would be an error.
    assert not hasattr(seed, "state")


def _uniform(seed, ids, counter, shape=(50,)):
    return to_numpy(SampleSeed(seed, ids).uniform(counter, shape))


def _murmur(bits):
    bits = bits & MASK
    bits ^= bits >> 16
    bits = bits * 0x85EBCA6B & MASK
    bits ^= bits >> 13
    bits = bits * 0xC2B2AE35 & MASK
    return bits ^ bits >> 16


def _mixed(first, second):
    return _murmur(_murmur(first + 1) * 0x9E3779B1 + second)


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**32 - 1])
def test_numbers_of_samples_are_the_hash_on_every_backend(seed):
    # In Python's own integers.
    ids = [0, 1, 12345, 2**31 - 1]
    keys = [_mixed(_mixed(seed, sample), 7) for sample in ids]
    positions = [_murmur(position * 0x9E3779B1) for position in range(6)]
    expected = [
        [(_murmur(position ^ key) >> 8) / 2**24 for position in positions]
        for key in keys
    ]
    found = _uniform(seed, ids, 7, (2, 3))
    assert found.dtype == "float32" and found.shape == (4, 2, 3)
    np.testing.assert_array_equal(found.reshape(4, 6), expected)


def test_numbers_of_samples_do_not_depend_on_the_batch():
    ids = np.arange(40)
    together = _uniform(3, ids, 1)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(_uniform(3, order, 1), together[order])
    np.testing.assert_array_equal(_uniform(3, [17], 1), together[17:18])


def test_numbers_of_samples_differ_in_everything():
    draws = [
        _uniform(seed, [sample], counter)
        for seed, sample, counter in itertools.product((0, 1), repeat=3)
    ]
    draws.append(to_numpy(SampleSeed(0, [0]).substream(1).uniform(0, (50,))))
    for one, another in itertools.combinations(draws, 2):
        assert not np.intersect1d(one, another).size


def test_numbers_of_samples_are_independent_and_uniform_or_normal():
    numbers = _uniform(0, np.arange(200), 0, (200,))
    assert 0 <= numbers.min() and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.01
    # Of neighbours in each of the two directions.
    for shifted in (numbers[1:] - numbers[:-1], numbers.T[1:] - numbers.T[:-1]):
        triangular = stats.triang(0.5, loc=-1, scale=2)
        assert stats.kstest(shifted[::2].ravel(), triangular.cdf).pvalue > 0.01
    counters = np.stack([_uniform(0, [0], c, ())[0] for c in range(500)])
    assert stats.kstest(counters, "uniform").pvalue > 0.01
    numbers = to_numpy(SampleSeed(1, np.arange(200)).normal(0, (200,)))
    assert numbers.shape == (200, 200) and np.isfinite(numbers).all()
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 0.01


def test_a_seed_of_samples_is_made_of_any_seed():
    seed = SampleSeed(1, [4])
    assert SampleSeed.of(seed, 1) is seed
    made = [SampleSeed.of(CounterSeed(n), 3) for n in (1, 1, 2)]
    np.testing.assert_array_equal(made[0].ids, [0, 1, 2])
    assert int(made[0].seed) == int(made[1].seed) != int(made[2].seed)

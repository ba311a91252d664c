"""Random numbers as a function of an explicit seed and a counter.

Keras draws from an integer (always the same numbers) or from a
`SeedGenerator` (a variable). An attack needs numbers that differ for every
step and replica, and that are the same when the step is repeated after a
resume. `CounterSeed` gives them, and has no variable.
"""

import math
from typing import TypeAlias

import keras
from keras import ops

from keras_wake.utils.types import Tensor

# An odd number, so that no two seeds become the same.
_SPREAD = 0x9E3779B1


class CounterSeed(keras.random.SeedGenerator):
    """A seed for `keras.random` functions made of a seed and a counter.

    Two draws of one step differ: each takes the next sub-stream, counted while
    the step is traced.

    Args:
        seed: Integer tensor or int, which stream.
        counter: Integer tensor or int, the position in the stream.
        shift: Integer tensor or int, added to the seed. Defaults to `0`.
    """

    def __init__(
        self, seed: Tensor, counter: Tensor = 0, shift: Tensor = 0
    ) -> None:
        # `SeedGenerator.__init__` would make a variable; this seed has none.
        # Spread out, because PyTorch is given the sum of the two numbers.
        shifted = ops.cast(seed, "uint32") + ops.cast(shift, "uint32")
        self._seed = shifted * ops.cast(_SPREAD, "uint32")
        self._counter = ops.cast(counter, "uint32")
        self._draws = 0

    def next(self, ordered: bool = True) -> Tensor:
        """The next pair of numbers that a `keras.random` function takes."""
        self._draws += 1
        return ops.stack(
            [self._seed, self._counter * ops.cast(8, "uint32") + self._draws]
        )


class SampleSeed:
    """Random numbers of each sample, whatever batch it is in.

    A number depends on four integers: the seed, the number of the sample, the
    counter of the draw and the position in it. They are mixed with the
    finaliser of MurmurHash3, in integers that are the same on every backend.
    So an attack finds the same for a sample in any batch.

    Args:
        seed: Integer tensor or int, which stream.
        ids: Integer tensor (batch,), not negative: the numbers by which
            samples are told apart.

    Example:

    >>> numbers = SampleSeed(0, [7, 8]).uniform(counter=3, shape=(5, 5))
    >>> tuple(numbers.shape)
    (2, 5, 5)
    """

    def __init__(self, seed: Tensor, ids: Tensor) -> None:
        self.seed = as_int32(seed)
        self.ids = as_int32(ids)

    @classmethod
    def of(cls, seed: Tensor, size: Tensor) -> "SampleSeed":
        """`seed` itself, or one for samples 0, 1, … made of it."""
        if isinstance(seed, cls):
            return seed
        stream = keras.random.randint((), 0, 2**31 - 1, seed=seed)
        return cls(stream, ops.arange(size, dtype="int32"))

    def substream(self, number: Tensor) -> "SampleSeed":
        """Another seed for the same samples: of a restart, for example."""
        return SampleSeed(_mixed(self.seed, as_int32(number)), self.ids)

    def for_samples(self, ids: Tensor) -> "SampleSeed":
        """The same seed for other samples."""
        return SampleSeed(self.seed, ids)

    def uniform(self, counter: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1), float32 (batch, *shape).

        Another counter, an integer tensor or int, gives other numbers.
        """
        key = _mixed(_mixed(self.seed, self.ids), as_int32(counter))
        positions = ops.arange(math.prod(shape), dtype="int32")
        # The positions are mixed before they meet the key: else the numbers
        # of one key would be those of another, shifted.
        bits = _finalised(_finalised(positions * _SPREAD_INT32) ^ key[:, None])
        # 24 bits are what float32 holds exactly.
        numbers = ops.cast(_shifted(bits, 8), "float32") * 2.0**-24
        return ops.reshape(numbers, (-1, *shape))

    def normal(self, counter: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers, by the formula of Box and Muller."""
        pairs = self.uniform(counter, (2, *shape))
        # 1 − u is in (0, 1]: its logarithm is finite.
        radius = ops.sqrt(-2.0 * ops.log(1.0 - pairs[:, 0]))
        return radius * ops.cos(2.0 * math.pi * pairs[:, 1])


# What an attack draws its random numbers from: an integer or a `SeedGenerator`
# for `keras.random`, or a `SampleSeed`.
Seed: TypeAlias = int | keras.random.SeedGenerator | SampleSeed

# In int32, which wraps around on every backend: PyTorch lacks most of uint32.
_SPREAD_INT32 = _SPREAD - 2**32


def as_int32(value: Tensor) -> Tensor:
    """An int32 tensor; an int of more bits wraps around."""
    if isinstance(value, int):
        value = (value + 2**31) % 2**32 - 2**31
    return ops.cast(value, "int32")


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted right, with zeros coming in from the left."""
    return ops.right_shift(bits, by) & (2 ** (32 - by) - 1)


def _finalised(bits: Tensor) -> Tensor:
    """The finaliser of MurmurHash3: every bit depends on every bit."""
    bits = (bits ^ _shifted(bits, 16)) * (0x85EBCA6B - 2**32)
    bits = (bits ^ _shifted(bits, 13)) * (0xC2B2AE35 - 2**32)
    return bits ^ _shifted(bits, 16)


def _mixed(first: Tensor, second: Tensor) -> Tensor:
    """One number of two, which tells (1, 2) from (2, 1)."""
    return _finalised(_finalised(first + 1) * _SPREAD_INT32 + second)

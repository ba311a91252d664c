"""Random numbers as a function of an explicit seed and a counter.

Keras draws from an integer (always the same numbers) or from a
`SeedGenerator` (a variable). An attack needs a third kind: numbers that are
different for every step and replica, and the same again when the step is
repeated after a resume. `CounterSeed` gives them without a state of its own.
"""

from typing import Any

import keras
from keras import ops

# An odd number, so that no two seeds become the same.
_SPREAD = 0x9E3779B1


class CounterSeed(keras.random.SeedGenerator):
    """A seed for `keras.random` functions made of a seed and a counter.

    Each draw takes the next sub-stream, counted while the step is traced, so
    two draws of one step differ.

    Args:
        seed: Integer tensor or int, which stream.
        counter: Integer tensor or int, the position in the stream.
    """

    def __init__(self, seed: Any, counter: Any = 0) -> None:
        # `SeedGenerator.__init__` would make a variable; this seed has none.
        # Spread out, because PyTorch is given the sum of the two numbers.
        self._seed = ops.cast(seed, "uint32") * ops.cast(_SPREAD, "uint32")
        self._counter = ops.cast(counter, "uint32")
        self._draws = 0

    def next(self, ordered: bool = True) -> Any:
        """The next pair of numbers that a `keras.random` function takes."""
        self._draws += 1
        return ops.stack(
            [self._seed, self._counter * ops.cast(8, "uint32") + self._draws]
        )

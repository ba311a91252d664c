"""The number of the epoch, and the order and augmentation that follow from it.

They are drawn at the start of an epoch from the seed and the number of the
epoch alone, one row of draws per image. So a batch depends on nothing that
happened before it, a resumed run sees what an uninterrupted one would have
seen, and all backends see the same batches.
"""

import numpy as np

ORDER, AUGMENTATION, CUTMIX = 0, 1, 2


class EpochCounter:
    """The number of the epoch of the next pass over the training images.

    Args:
        epoch: Number of the first epoch.
    """

    def __init__(self, epoch: int):
        self._epoch = epoch
        self.pinned = False

    def read(self) -> int:
        """The number of the epoch."""
        return self._epoch

    def pin(self, epoch: int) -> None:
        """Fixes the epoch; finished passes do not change it any more."""
        self._epoch = epoch
        self.pinned = True

    def finish(self, epoch: int) -> None:
        """Called with the last batch of a pass, which was that of `epoch`."""
        if not self.pinned:
            self._epoch = int(epoch) + 1

    def get_state(self) -> dict[str, int]:
        """For `BackupAndRestore`."""
        return {"epoch": self._epoch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from what `get_state` has returned."""
        self._epoch = state["epoch"]


def random_bits(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Random 64-bit numbers, uint64 `(count,)`.

    Args:
        count: How many.
        seed: Seed of the run.
        epoch: Number of the epoch.
        stream: What they are for: `ORDER`, `AUGMENTATION` or `CUTMIX`. The
            numbers of one do not depend on whether another is used.
    """
    # Straight from the bit generator: NumPy guarantees that these numbers
    # stay the same in all versions, and those of a `Generator` not.
    source = np.random.SeedSequence([seed, epoch, stream])
    return np.random.Philox(source).random_raw(count)


def epoch_draws(
    size: int, ways: tuple[int, int], seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is random in an epoch.

    Args:
        size: Number of images.
        ways: Among how many ways of taking rows and columns to choose.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        The images in the order of the epoch, int32 `(size,)`, and for each
        image, in the order of the data, which rows and columns it is made
        of, int32 `(size, 2)`.
    """
    keys = random_bits(size, seed, epoch, ORDER)
    bits = random_bits(2 * size, seed, epoch, AUGMENTATION).reshape(-1, 2)
    order = np.argsort(keys, kind="stable")
    choices = bits % np.asarray(ways, np.uint64)
    return order.astype(np.int32), choices.astype(np.int32)

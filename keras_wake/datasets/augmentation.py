"""What is random in an epoch: the order of the images and their augmentation.

Both are drawn at the start of an epoch from the seed and the number of the
epoch alone, one row of draws for each image. So a batch depends on nothing
that happened before it, and a resumed run sees what an uninterrupted one
would have seen. CutMix is in `cutmix`.
"""

import numpy as np

from keras_wake.utils.types import Array

AUGMENTATIONS = ("crop_flip", "flip", "none")
CROP_PADDING = 4
# What random numbers are for. Those of one stream do not depend on whether
# another one is used.
ORDER, AUGMENTATION, CUTMIX = 0, 1, 2


def random_bits(count: int, seed: int, epoch: int, stream: int) -> Array:
    """Random 64-bit numbers, uint64 `(count,)`."""
    # Straight from the bit generator: NumPy guarantees that its numbers stay
    # the same in all versions, but not those of a `Generator`.
    source = np.random.SeedSequence([seed, epoch, stream])
    return np.random.Philox(source).random_raw(count)


def order_draws(size: int, seed: int, epoch: int) -> Array:
    """The order of the images in an epoch, int32 `(size,)`."""
    keys = random_bits(size, seed, epoch, ORDER)
    return np.argsort(keys, kind="stable").astype(np.int32)


def augmentation_draws(
    size: int, ways: tuple[int, int], seed: int, epoch: int
) -> Array:
    """Which way of taking rows and columns each image gets in an epoch.

    int32 `(size, 2)`, in the order of the data; `ways` are the numbers of
    ways to choose from.
    """
    bits = random_bits(2 * size, seed, epoch, AUGMENTATION).reshape(-1, 2)
    return (bits % np.asarray(ways, np.uint64)).astype(np.int32)


def source_pixels(augment: str, height: int, width: int) -> tuple[Array, Array]:
    """All ways of taking rows and columns that an augmentation chooses from.

    int32 `(ways, height)` and `(ways, width)`: for each way, the row (column)
    of the original that each row (column) of the result shows.
    """
    offsets = np.arange(-CROP_PADDING, CROP_PADDING + 1)
    if augment != "crop_flip":
        offsets = np.zeros(1, int)
    rows, columns = (_reflected(offsets, side) for side in (height, width))
    if augment != "none":
        columns = np.concatenate([columns, columns[:, ::-1]])
    return rows.astype(np.int32), columns.astype(np.int32)


def _reflected(offsets: Array, side: int) -> Array:
    """Pixel numbers `(offsets, side)`; beyond an edge the image is mirrored."""
    shifted = np.abs(np.arange(side) + offsets[:, np.newaxis])
    return (side - 1) - np.abs((side - 1) - shifted)

"""What is random in an epoch: order of the images, augmentation and CutMix.

All are drawn at the start of an epoch from the seed and the number of the
epoch alone, one row of draws for each image. So a batch depends on nothing
that happened before it, and a resumed run sees what an uninterrupted one
would have seen; and an image does not depend on its batch or process.

In CutMix (Yun et al. 2019) each image gets a box of another image.
For an image x_a with label y_a and its partner x_b with label y_b,

    x = M ⊙ x_a + (1 - M) ⊙ x_b,   y = λ y_a + (1 - λ) y_b,

where the mask M is 0 in a box and 1 elsewhere. The box has the centre of a
pixel drawn uniformly and the sides ⌊H √(1 - λ')⌋ and ⌊W √(1 - λ')⌋ with
λ' ~ Beta(α, α), and is cut at the border. λ is the part of x_a that is left.
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


def symmetric_beta(alpha: float, u: Array, v: Array) -> Array:
    """Numbers of the distribution Beta(α, α).

    Bailey's (1994) T = √(2α (u^(-1/α) - 1)) cos(2πv) has Student's
    distribution with 2α degrees of freedom, and (1 + T / √(2α + T²)) / 2 has
    the distribution Beta(α, α). Each number takes exactly two uniform ones,
    u and v in (0, 1].
    """
    logarithm = np.log(u) / alpha
    power, rest = np.exp(logarithm), -np.expm1(logarithm)
    cosine = np.cos(2 * np.pi * v)
    sine = np.sqrt(rest) * cosine / np.sqrt(power + rest * cosine**2)
    return (1 + sine) / 2


def cutmix_draws(
    size: int, sides: tuple[int, int], alpha: float, seed: int, epoch: int
) -> tuple[Array, Array, Array]:
    """Draws the partner and the box of each of N images for an epoch.

    Returns, in the order of the data: the partners, each other image with the
    same probability, int32 `(N,)`; the boxes as first row, first column and
    the ones after the last, int32 `(N, 4)`; and 1 - λ, the part of the image
    that the box covers, float32 `(N,)`.
    """
    bits = random_bits(5 * size, seed, epoch, CUTMIX).reshape(-1, 5)
    # A single image has no other one.
    ways = np.uint64(max(size - 1, 1))
    steps = 1 + (bits[:, 0] % ways).astype(np.int64)
    partners = (np.arange(size) + steps) % size
    # From 64 random bits to numbers in (0, 1].
    uniform = ((bits[:, 1:3] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
    kept = symmetric_beta(alpha, uniform[:, 0], uniform[:, 1])
    limits = np.asarray(sides, np.int64)
    lengths = np.floor(limits * np.sqrt(1 - kept)[:, np.newaxis]).astype(int)
    centres = (bits[:, 3:] % limits.astype(np.uint64)).astype(np.int64)
    first = centres - lengths // 2
    last = np.minimum(first + lengths, limits)
    first = np.maximum(first, 0)
    boxes = np.concatenate([first, last], axis=1)
    covered = (last - first).prod(axis=1) / limits.prod()
    return (
        partners.astype("int32"),
        boxes.astype("int32"),
        covered.astype("float32"),
    )

"""The windows of the Square attack: how large they are and what fills them."""

import numpy as np
from keras import ops

from keras_wake.utils.types import Tensor

# After how many queries the share of the pixels is halved again.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def window_sides(
    queries: int,
    p_init: float,
    height: int,
    width: int,
    smooth: bool,
    stretched: bool = False,
) -> np.ndarray:
    """Side of the window that each query changes, in pixels.

    A window covers the share p of the image, so that its side is
    √(p · height · width), rounded. p is `p_init` at first and is halved after
    10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries.

    Args:
        queries: Number of queries.
        p_init: Share of the pixels at first.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
        smooth: Whether windows are filled with `smooth_window`, which needs
            an odd side of at least 3.
        stretched: Whether the schedule, made for 10,000 queries, is scaled
            to `queries`. Defaults to `False`.

    Returns:
        Int32 array (queries,).
    """
    position = np.arange(queries)
    if stretched:
        position = position * 10_000 // queries
    halvings = np.searchsorted(_HALVED_AFTER, position, side="left")
    share = p_init / 2.0**halvings
    sides = np.round(np.sqrt(share * height * width)).astype("int32")
    if smooth:
        sides = np.maximum(sides, 3)
        sides += 1 - sides % 2
    return np.clip(sides, 1, min(height, width)).astype("int32")


def smooth_window(side: int) -> np.ndarray:
    """η of the paper: two bumps of opposite sign, one above the other.

    A bump of h_1 rows and h_2 columns has the values
    η_rs = Σ_{m=d}^{n} 1 / (m + 1)², where d is the larger of the distances
    of row and column from its middle and n = ⌊max(h_1, h_2) / 2⌋.

    Args:
        side: Number of rows and of columns.

    Returns:
        Float32 array (side, side) of ℓ2 norm 1.
    """
    upper = side // 2
    halves = [
        sign * _bump(rows, side)
        for sign, rows in ((1, upper), (-1, side - upper))
    ]
    window = np.concatenate(halves)
    return (window / np.linalg.norm(window)).astype("float32")


def _bump(rows: int, columns: int) -> np.ndarray:
    if not rows:
        return np.zeros((0, columns))
    distance = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None],
        np.abs(np.arange(columns) - columns // 2)[None, :],
    )
    terms = 1 / np.arange(1, max(rows, columns) // 2 + 2) ** 2
    values = np.cumsum(terms[::-1])[::-1][distance]
    return values / np.linalg.norm(values)


def tiled_windows(height: int, width: int) -> tuple[np.ndarray, tuple]:
    """The start of the ℓ2 search: a grid of smooth windows.

    Returns:
        The window of a tile, (side, side), and how many tiles there are from
        top to bottom and from left to right: five, but for small images.
    """
    side = max(min(height, width) // 5, 1)
    return smooth_window(side), (height // side, width // side)


def centred(grid: Tensor, height: int, width: int) -> Tensor:
    """Puts (batch, rows, columns, channels) into the middle of zeros."""
    rows, columns = height - grid.shape[1], width - grid.shape[2]
    top, left = rows // 2, columns // 2
    return ops.pad(
        grid, ((0, 0), (top, rows - top), (left, columns - left), (0, 0))
    )


class Placed:
    """A square window in each image, each at a place of its own.

    Args:
        place: Float32 tensor (batch, 2) in [0, 1), which choose among the
            rows and columns at which the window can begin.
        side: Int32 scalar tensor, in pixels.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
    """

    def __init__(
        self, place: Tensor, side: Tensor, height: int, width: int
    ) -> None:
        self.rows, self.columns = (
            _offsets(place[:, axis], side, size)
            for axis, size in enumerate((height, width))
        )
        self.mask = ops.logical_and(
            _within(self.rows, side)[:, :, None, None],
            _within(self.columns, side)[:, None, :, None],
        )

    def filled(self, values: Tensor) -> Tensor:
        """Zeros around `values`, float32 (batch, height, width, 1).

        Args:
            values: Float32 tensor (n, n), what a window consists of; those
                beyond its side are left out.
        """
        size = values.shape[0]
        rows, columns = (
            ops.clip(offsets, 0, size - 1)
            for offsets in (self.rows, self.columns)
        )
        index = rows[:, :, None] * size + columns[:, None, :]
        found = ops.take(ops.reshape(values, (-1,)), index)[..., None]
        return ops.where(self.mask, found, 0.0)


def _offsets(place: Tensor, side: Tensor, size: int) -> Tensor:
    """Distances of the pixels from the window's begin, int32 (batch, size)."""
    possible = ops.cast(size - side + 1, "float32")
    begin = ops.cast(ops.floor(place * possible), "int32")
    return ops.arange(size, dtype="int32")[None, :] - begin[:, None]


def _within(offsets: Tensor, side: Tensor) -> Tensor:
    return ops.logical_and(offsets >= 0, offsets < side)

"""The windows of the Square attack: where they are and what fills them."""

import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.utils.types import Array
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
) -> Array:
    """Side of the window that each query changes, in pixels, int32 (queries,).

    A window covers the share p of the image, so that its side is
    √(p · height · width), rounded. p is `p_init` at first and is halved again
    and again. A schedule that is `stretched` is made for 10,000 queries and
    scaled to `queries`. A `smooth` window needs an odd side of at least 3.
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


def smooth_window(side: int) -> Array:
    """η of the paper: two bumps of opposite sign, one above the other.

    A bump of h_1 rows and h_2 columns has the values
    η_rs = Σ_{m=d}^{n} 1 / (m + 1)², where d is the larger of the distances
    of row and column from its middle and n = ⌊max(h_1, h_2) / 2⌋.

    Returns:
        Float32 array (side, side) of ℓ2 norm 1.
    """
    upper = side // 2
    window = np.concatenate([_bump(upper, side), -_bump(side - upper, side)])
    return (window / np.linalg.norm(window)).astype("float32")


def _bump(rows: int, columns: int) -> Array:
    if not rows:
        return np.zeros((0, columns))
    distance = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None],
        np.abs(np.arange(columns) - columns // 2)[None, :],
    )
    terms = 1 / np.arange(1, max(rows, columns) // 2 + 2) ** 2
    values = np.cumsum(terms[::-1])[::-1][distance]
    return values / np.linalg.norm(values)


class Placed:
    """A square window in each image, each at a place of its own.

    `place`, float32 (batch, 2) in [0, 1), chooses among the rows and columns at
    which the window can begin.
    """

    def __init__(
        self, place: Tensor, side: Tensor, height: int, width: int
    ) -> None:
        self.rows, self.columns = (
            _offsets(place[:, axis], side, size)
            for axis, size in enumerate((height, width))
        )
        rows, columns = (
            ops.cast(ops.logical_and(offsets >= 0, offsets < side), "float32")
            for offsets in (self.rows, self.columns)
        )
        # 1 in the window, else 0. A `where` that broadcasts takes TensorFlow
        # three times as long as a product.
        self._in_rows = rows[:, :, None, None]
        self._in_columns = columns[:, None, :, None]
        self.mask = self._in_rows * self._in_columns

    def plain(self, values: Tensor) -> Tensor:
        """Zeros around a window of one value for each channel.

        Float32 (batch, height, width, channels) from (batch, 1, 1, channels).
        """
        # In this order the large product repeats whole rows, not single pixels.
        return self._in_rows * (self._in_columns * values)

    def filled(self, values: Tensor) -> Tensor:
        """Zeros around a window of `values`, float32 (batch, height, width, 1).

        `values`, float32 (n, n), are cut off at the side of the window.
        """
        size = values.shape[0]
        rows, columns = (
            ops.clip(offsets, 0, size - 1)
            for offsets in (self.rows, self.columns)
        )
        index = rows[:, :, None] * size + columns[:, None, :]
        found = ops.take(ops.reshape(values, (-1,)), index)[..., None]
        return self.mask * found


def _offsets(place: Tensor, side: Tensor, size: int) -> Tensor:
    """Distances of the pixels from the window's begin, int32 (batch, size)."""
    possible = ops.cast(size - side + 1, "float32")
    begin = ops.cast(ops.floor(place * possible), "int32")
    return ops.arange(size, dtype="int32")[None, :] - begin[:, None]


class LinfWindows:
    """Stripes and windows of ±epsilon, in images (height, width, channels)."""

    def __init__(
        self, epsilon: float, shape: tuple[int, int, int], sides: Array
    ) -> None:
        self.epsilon = epsilon
        self.height, self.width, self.channels = shape
        self.sides = sides
        # A place, and a sign for each channel.
        self.num_draws = 2 + self.channels
        self.num_start_draws = self.width * self.channels

    def start(self, draws: Tensor) -> Tensor:
        """δ of the first query, (batch, height, width, channels)."""
        stripes = ops.reshape(draws, (-1, 1, self.width, self.channels))
        stripes = ops.repeat(stripes, self.height, axis=1)
        return self.epsilon * _signs(stripes)

    def changed(self, delta: Tensor, draws: Tensor, query: Tensor) -> Tensor:
        """δ with a window that is drawn anew."""
        window = self._placed(draws[:, :2], query)
        signs = _signs(draws[:, None, None, 2:])
        # Not 2 · epsilon: rounding could keep it from reaching the other side.
        added = window.plain(3 * self.epsilon * signs)
        return ops.clip(delta + added, -self.epsilon, self.epsilon)

    def _placed(self, place: Tensor, query: Tensor) -> Placed:
        side = ops.take(ops.convert_to_tensor(self.sides), query)
        return Placed(place, side, self.height, self.width)


class L2Windows(LinfWindows):
    """Smooth windows, which pass norm on from one to another."""

    def __init__(
        self, epsilon: float, shape: tuple[int, int, int], sides: Array
    ) -> None:
        super().__init__(epsilon, shape, sides)
        # Two places, whether it is turned, and a sign for each channel.
        self.num_draws = 5 + self.channels
        # The start has five tiles in each direction, but for small images.
        self.tile = max(min(self.height, self.width) // 5, 1)
        self.tiles = self.height // self.tile, self.width // self.tile
        self.num_start_draws = (
            self.tiles[0] * self.tiles[1] * (1 + self.channels)
        )
        # One window for each side that occurs, at the top left of zeros.
        different, kinds = np.unique(sides, return_inverse=True)
        self.kinds = kinds.astype("int32")
        size = int(different[-1])
        self.patterns = np.stack(
            [np.pad(smooth_window(s), (0, size - s)) for s in different]
        )

    def start(self, draws: Tensor) -> Tensor:
        """δ of the first query: a grid of smooth windows in the middle."""
        (rows, columns), side = self.tiles, self.tile
        draws = ops.reshape(draws, (-1, rows, 1, columns, 1, 1 + self.channels))
        window = smooth_window(side)
        upright, turned = (
            ops.reshape(ops.convert_to_tensor(tile), (1, 1, side, 1, side, 1))
            for tile in (window, window.T)
        )
        grid = ops.where(draws[..., :1] < 0.5, upright, turned)
        grid = grid * _signs(draws[..., 1:])
        size = rows * side, columns * side
        grid = ops.reshape(grid, (-1, *size, self.channels))
        rest = self.height - size[0], self.width - size[1]
        margins = [(left // 2, left - left // 2) for left in rest]
        grid = ops.pad(grid, ((0, 0), *margins, (0, 0)))
        return self._of_norm_epsilon(grid)

    def changed(self, delta: Tensor, draws: Tensor, query: Tensor) -> Tensor:
        """δ with the norm of two windows in the first one of them."""
        first = self._placed(draws[:, :2], query)
        second = self._placed(draws[:, 2:4], query)
        either = ops.maximum(first.mask, second.mask)

        # The squared norm for a channel: that of its two windows, and its share
        # of what is left of epsilon².
        spare = ops.maximum(self.epsilon**2 - _squares(delta, (1, 2, 3)), 0.0)
        freed = _squares(either * delta, (1, 2))
        budget = ops.sqrt(spare / self.channels + freed)

        kind = ops.take(ops.convert_to_tensor(self.kinds), query)
        smooth = ops.take(ops.convert_to_tensor(self.patterns), kind, axis=0)
        added = backend.where_sample(
            draws[:, 4] < 0.5,
            first.filled(smooth),
            first.filled(ops.transpose(smooth)),
        )
        signs = _signs(draws[:, None, None, 5:])
        old = _unit(first.mask * delta, (1, 2))
        new = budget * _unit(signs * added + old, (1, 2))
        return self._of_norm_epsilon((1 - either) * delta + new)

    def _of_norm_epsilon(self, delta: Tensor) -> Tensor:
        return self.epsilon * _unit(delta, (1, 2, 3))


def _signs(draws: Tensor) -> Tensor:
    """−1 or 1 for numbers that are uniform in [0, 1)."""
    return 1 - 2 * ops.cast(draws < 0.5, "float32")


def _squares(delta: Tensor, axes: tuple[int, ...]) -> Tensor:
    return ops.sum(ops.square(delta), axis=axes, keepdims=True)


def _unit(delta: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Divided by its ℓ2 norm over the axes; zeros stay zeros."""
    return delta / (ops.sqrt(_squares(delta, axes)) + 1e-12)

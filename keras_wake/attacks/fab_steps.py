"""The smallest step onto a hyperplane that stays inside a box.

It is the d of least norm with ⟨w, d⟩ = c and low ≤ x + d ≤ high. Coordinate i
moves in the direction sign(c · w_i), in which it has room for m_i. A step to
the level t reaches

    G(t) = Σ_i |w_i| · min(t, m_i)           with |d_i| = min(t, m_i)  for ℓ∞,
    G(t) = Σ_i |w_i| · min(t · |w_i|, m_i)   with |d_i| = …            for ℓ2.

Both are Σ_i s_i · min(t, k_i): increasing, and linear between the knots k_i.
So sorting the knots gives the t with G(t) = |c|. If the box is too small for
that, the step goes into its corner.
"""

from collections.abc import Callable

from keras import ops

from keras_wake.utils.types import Tensor


def linf_step(
    x: Tensor, w: Tensor, c: Tensor, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The step of least ℓ∞ norm onto a hyperplane.

    Args:
        x: Float32 tensor (batch, n), points inside the box.
        w: Float32 tensor (batch, n), normals of the hyperplanes.
        c: Float32 tensor (batch,), ⟨w, d⟩ of the steps d.
        bounds: The box: smallest and largest value of a coordinate.

    Returns:
        Float32 tensor (batch, n).
    """
    sign, room, slope, gain = _scaled(x, w, c, bounds)
    level = _level(room, slope, gain)
    return sign * ops.minimum(level[:, None], room)


def l2_step(
    x: Tensor, w: Tensor, c: Tensor, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The step of least ℓ2 norm onto a hyperplane; see `linf_step`."""
    sign, room, slope, gain = _scaled(x, w, c, bounds)
    # A coordinate of slope 0 has no knot: it stays where it is at any level.
    knots = ops.where(slope > 0, room / ops.maximum(slope, 1e-30), 0.0)
    level = _level(knots, ops.square(slope), gain)
    return sign * ops.minimum(level[:, None] * slope, room)


STEPS: dict[str, Callable] = {"linf": linf_step, "l2": l2_step}


def _scaled(
    x: Tensor, w: Tensor, c: Tensor, bounds: tuple[float, float]
) -> Tensor:
    """Signs of d, m, |w| and |c|, the last two divided by the largest |w|."""
    low, high = bounds
    x, w, c = (ops.convert_to_tensor(v, "float32") for v in (x, w, c))
    size = ops.max(ops.abs(w), axis=1, keepdims=True)
    # A common factor of w and c does not change d. This one keeps the squares
    # in the range of float32.
    factor = 1 / ops.maximum(size, 1e-30)
    w, c = w * factor, c * factor[:, 0]
    sign = ops.sign(w) * ops.sign(c)[:, None]
    room = ops.maximum(ops.where(sign > 0, high - x, x - low), 0.0)
    return sign, room, ops.abs(w), ops.abs(c)


def _level(knots: Tensor, slopes: Tensor, gain: Tensor) -> Tensor:
    """The t with Σ_i s_i · min(t, k_i) = `gain`, shape (batch,).

    The last knot, where the sum stays below `gain`.
    """
    order = ops.argsort(knots, axis=1)
    knots = ops.take_along_axis(knots, order, axis=1)
    slopes = ops.take_along_axis(slopes, order, axis=1)
    # At each knot: the sum over the coordinates with smaller knots, and the
    # slope of the others. The slopes are added from the end: a difference of
    # sums would lose digits.
    spent = ops.cumsum(slopes * knots, axis=1) - slopes * knots
    rising = ops.flip(ops.cumsum(ops.flip(slopes, axis=1), axis=1), axis=1)
    gained = spent + rising * knots
    passed = ops.sum(
        ops.cast(gained < gain[:, None], "int32"), axis=1, keepdims=True
    )
    last = ops.shape(knots)[1] - 1
    at = ops.minimum(passed, last)
    spent, rising, knot = (
        ops.take_along_axis(values, at, axis=1)[:, 0]
        for values in (spent, rising, knots)
    )
    level = (gain - spent) / ops.maximum(rising, 1e-30)
    return ops.where(passed[:, 0] > last, knot, ops.minimum(level, knot))

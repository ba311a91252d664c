"""The smallest step onto a hyperplane that stays inside a box.

Wanted is the d of least norm with ⟨w, d⟩ = c and low ≤ x + d ≤ high: how much
the step has to gain is c, and how far coordinate i can go in the direction
that gains, sign(c · w_i), is m_i. A step to the level t gains

    G(t) = Σ_i |w_i| · min(t, m_i)           with |d_i| = min(t, m_i)  for ℓ∞,
    G(t) = Σ_i |w_i| · min(t · |w_i|, m_i)   with |d_i| = …            for ℓ2.

Both are Σ_i s_i · min(t, k_i), which rises, and bends at the knots k_i; sorted
knots give the t at which it is |c|. Where the box ends first, the step goes
into its corner, as far as it can.
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
    """The step of least ℓ2 norm onto a hyperplane.

    Args:
        x: Float32 tensor (batch, n), points inside the box.
        w: Float32 tensor (batch, n), normals of the hyperplanes.
        c: Float32 tensor (batch,), ⟨w, d⟩ of the steps d.
        bounds: The box: smallest and largest value of a coordinate.

    Returns:
        Float32 tensor (batch, n).
    """
    sign, room, slope, gain = _scaled(x, w, c, bounds)
    # What does not gain has no knot: any level leaves it where it is.
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
    # A factor of w and c changes nothing; this one keeps squares in range.
    factor = 1 / ops.maximum(size, 1e-30)
    w, c = w * factor, c * factor[:, 0]
    sign = ops.sign(w) * ops.sign(c)[:, None]
    room = ops.maximum(ops.where(sign > 0, high - x, x - low), 0.0)
    return sign, room, ops.abs(w), ops.abs(c)


def _level(knots: Tensor, slopes: Tensor, gain: Tensor) -> Tensor:
    """The t at which Σ_i s_i · min(t, k_i) is `gain`, shape (batch,).

    Beyond the last knot, where it stays below.
    """
    order = ops.argsort(knots, axis=1)
    knots = ops.take_along_axis(knots, order, axis=1)
    slopes = ops.take_along_axis(slopes, order, axis=1)
    # What those below a knot gain, and how fast the others do, itself among
    # them. Sums of what comes behind, and not differences, which cancel.
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

"""FAB: steps onto linearised decision boundaries, close to the image."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.logits import likely_wrong_class
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.search import until_found
from keras_wake.attacks.staged import StagedAttack
from keras_wake.attacks.threat_model import per_sample
from keras_wake.backend import numerics
from keras_wake.losses.margin import logit_of
from keras_wake.losses.margin import margin_for_search
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class FAB(StagedAttack):
    """Fast adaptive boundary attack (Croce & Hein 2020), targeted: FAB-T.

    It looks for the smallest perturbation that crosses the boundary to a
    class t, whatever epsilon is, and so finds what an attack that maximises a
    loss overshoots. With h = z_t − z_y, linearised at the point x_k, and d(u)
    the smallest step from u onto h = 0 inside the bounds:

        α = min(‖d(x_k)‖ / (‖d(x_k)‖ + ‖d(x)‖), alpha_max)
        x_{k+1} ← (1 − α) · (x_k + eta · d(x_k)) + α · (x + eta · d(x))

    From a point that is misclassified the search goes on at
    x + beta · (x_{k+1} − x), in order to find a nearer one. It ends at the
    first misclassified point inside the ball. For an image without one, δ is 0:
    as published, a point outside is not projected into the ball.

    Each of the most likely wrong classes of the clean image is the target of
    a stage. The first search for a target starts from the image, further ones
    from random points at half the radius.

    Args:
        norm: As for `ThreatModel`. Defaults to `"linf"`.
        epsilon: As for `ThreatModel`. Defaults to `None`.
        steps: Number of steps. Defaults to `100`.
        restarts: Number of searches for each target. Defaults to `1`.
        target_classes: Largest number of targets; there are at most K − 1.
            Defaults to `9`.
        alpha_max: Largest weight of the step from the image. Defaults to
            `0.1`.
        eta: By what factor a step goes beyond the boundary. Defaults to
            `1.05`.
        beta: What share of a perturbation is kept when the search turns back.
            Defaults to `0.9`.
        bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: For an unknown norm, or a number out of range.

    Example:

    >>> FAB("l2", epsilon=0.5, target_classes=3).stages_for(num_classes=10)
    3
    """

    _arguments = (
        *("steps", "restarts", "target_classes", "alpha_max", "eta", "beta"),
    )
    targeted = True

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        steps: int = 100,
        restarts: int = 1,
        target_classes: int = 9,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(norm, epsilon, bounds)
        self.steps = validate.integer(1, steps=steps)
        self.restarts = validate.integer(1, restarts=restarts)
        self.target_classes = validate.integer(1, target_classes=target_classes)
        self.alpha_max = validate.in_range(0, 1, alpha_max=alpha_max)
        self.eta = validate.positive(eta=eta)
        self.beta = validate.in_range(0, 1, beta=beta)

    @functools.cached_property
    def name(self) -> str:
        """`FAB-T`; of a subclass the name of the class."""
        return "FAB-T" if type(self) is FAB else type(self).__name__

    def passes(self, num_classes: int) -> tuple[int, int]:
        """Largest number of passes of one stage for each image.

        Each step takes a forward and a backward pass at its point and a
        forward pass at the next one. One forward pass chooses the target.
        """
        return 2 * self.steps + 1, self.steps

    def run_stage(
        self,
        classifier: Callable,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Perturbations that one search has led to, float32 like `x`."""
        logits_of = stateless_logits(classifier)
        targets = self._targets_for(labels.shape[-1])
        target = likely_wrong_class(
            labels, logits_of(x), ops.mod(stage, targets)
        )
        # Some headroom for gradients that pass through float16.
        half = numerics.computes_in_float16(classifier)
        factor = numerics.GRADIENT_SIZE if half else 1.0

        def step(given: _Given, state: _State) -> _State:
            x, labels, target = given

            def difference(images: Tensor) -> tuple[Tensor, Tensor]:
                logits = logits_of(images)
                h = logit_of(target, logits) - logit_of(labels, logits)
                return factor * ops.sum(h), h

            gradient, h = backend.gradient_and_outputs(
                difference, x + state.delta
            )
            gradient = numerics.finite(gradient) / factor
            delta = self._stepped(state.delta, h, gradient, x)
            crossed = margin_for_search(labels, logits_of(x + delta)) > 0
            inside = self.threat_model.size(delta) <= self.epsilon
            success = ops.logical_and(crossed, inside)
            # Only the first success counts, so that the result does not depend
            # on how long the other images take.
            first = ops.logical_and(success, ~state.found)
            back = ops.where(per_sample(crossed, x), self.beta, 1.0)
            # Keras turns Python numbers into `floatx`, which may be float64.
            back = ops.cast(back, "float32")
            return _State(
                step=state.step + 1,
                delta=delta * back,
                kept=backend.where_sample(first, delta, state.kept),
                found=ops.logical_or(state.found, success),
            )

        start = 0.5 * self.threat_model.random_on_sphere(x, seed)
        begin = _State(
            step=ops.zeros((), "int32"),
            delta=ops.where(stage < targets, ops.zeros_like(x), start),
            kept=ops.zeros_like(x),
            found=ops.zeros_like(labels[:, 0], "bool"),
        )
        given = _Given(x, labels, target)
        return until_found(step, given, begin, self.steps, lambda end: end.kept)

    def _stepped(
        self, delta: Tensor, h: Tensor, gradient: Tensor, x: Tensor
    ) -> Tensor:
        """The next δ, from h and its gradient at x + δ."""
        batch = ops.shape(h)[0]
        flat = (-1, math.prod(x.shape[1:]))
        normal = ops.reshape(gradient, flat)
        # The linearised h at x is h − ⟨gradient, δ⟩.
        moved = ops.sum(normal * ops.reshape(delta, flat), axis=1)
        # Both in one call, whose loop takes as many steps as the slower one.
        both = shortest_steps(
            self.norm,
            ops.reshape(ops.concatenate([x + delta, x]), flat),
            ops.concatenate([normal, normal]),
            ops.concatenate([-h, moved - h]),
            self.bounds,
        )
        from_here, from_clean = (
            ops.reshape(part, ops.shape(x))
            for part in (both[:batch], both[batch:])
        )
        lengths = [
            ops.maximum(self.threat_model.size(part), 1e-8)
            for part in (from_here, from_clean)
        ]
        alpha = ops.minimum(lengths[0] / sum(lengths), self.alpha_max)
        alpha = per_sample(alpha, x)
        delta = (1 - alpha) * (delta + self.eta * from_here)
        delta = delta + alpha * self.eta * from_clean
        # Where h is NaN or infinite, the search starts again from the image.
        delta = numerics.finite(delta)
        return ops.clip(x + delta, *self.bounds) - x


class _Given(NamedTuple):
    """What no step of the search changes, for each image."""

    x: Tensor
    labels: Tensor
    target: Tensor


class _State(NamedTuple):
    """The state of the search: for each image, shape (batch,) or like δ."""

    step: Tensor  # number of the next one, int32 scalar
    delta: Tensor
    kept: Tensor  # the first δ inside the ball that is misclassified, else 0
    found: Tensor  # whether there is one


def shortest_steps(
    norm: str, x: Tensor, w: Tensor, c: Tensor, bounds: tuple[float, float]
) -> Tensor:
    """The steps of least norm onto hyperplanes inside a box, like `x`.

    A step is the d of least norm with ⟨w, d⟩ = c and low ≤ x + d ≤ high, of
    shape (batch, n) like x and w. Coordinate i moves in the direction
    sign(c · w_i), in which it has room for m_i. A step to the level t reaches

        ℓ∞: G(t) = Σ_i |w_i| · min(t, m_i),          |d_i| = min(t, m_i)
        ℓ2: G(t) = Σ_i |w_i| · min(t · |w_i|, m_i),  |d_i| = min(t · |w_i|, m_i)

    Both are Σ_i s_i · min(t, k_i): increasing, concave, and linear between the
    knots k_i. If the box is too small for a t with G(t) = |c|, the step goes
    into its corner.
    """
    low, high = bounds
    x, w, c = (ops.convert_to_tensor(v, "float32") for v in (x, w, c))
    size = ops.max(ops.abs(w), axis=1, keepdims=True)
    # A common factor of w and c does not change d. This one keeps the squares
    # in the range of float32.
    factor = 1 / ops.maximum(size, 1e-30)
    w, c = w * factor, c * factor[:, 0]
    sign = ops.sign(w) * ops.sign(c)[:, None]
    room = ops.maximum(ops.where(sign > 0, high - x, x - low), 0.0)
    # How fast a coordinate moves as t grows. One of speed 0 has no knot: it
    # stays where it is at any level.
    speed = ops.abs(w) if norm == "l2" else ops.ones_like(w)
    knots = ops.where(speed > 0, room / ops.maximum(speed, 1e-30), 0.0)
    level = _level(knots, ops.abs(w) * speed, ops.abs(c))
    return sign * ops.minimum(level[:, None] * speed, room)


def _level(knots: Tensor, slopes: Tensor, gain: Tensor) -> Tensor:
    """The t with G(t) = Σ_i s_i · min(t, k_i) = `gain`, shape (batch,).

    Where G stays below `gain`, it is the last knot.

    Newton's method finds it from t = 0 on. G is concave and piecewise linear,
    so a step never goes beyond the solution, and one that starts on the same
    piece ends there. A few steps are enough; sorting the knots took longer than
    the network.
    """
    spent, last = slopes * knots, ops.max(knots, axis=1)

    def step(level: Tensor, newest: Tensor) -> tuple[Tensor, Tensor]:
        """`newest`, and the level of the next step, which is no smaller."""
        rising = ops.cast(knots > newest[:, None], "float32")
        slope = ops.sum(rising * slopes, axis=1)
        left = gain - ops.sum((1 - rising) * spent, axis=1)
        after = ops.minimum(left / ops.maximum(slope, 1e-30), last)
        # Rounding could make it smaller, and the loop would not end.
        return newest, ops.where(after > newest, after, newest)

    begin = ops.zeros_like(gain)
    _, level = ops.while_loop(
        lambda level, newest: ops.any(newest > level),
        step,
        step(begin, begin),
    )
    # The loop ends at a number where `gain` is NaN.
    return ops.where(ops.isnan(gain), gain, level)

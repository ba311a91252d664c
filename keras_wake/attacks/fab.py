"""FAB: steps onto linearised decision boundaries, close to the image."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.fab_steps import STEPS
from keras_wake.attacks.logits import likely_wrong_class
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.staged import StagedAttack
from keras_wake.attacks.threat_model import per_sample
from keras_wake.backend import numerics
from keras_wake.losses.margin import logit_of
from keras_wake.losses.margin import searched_margin
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Config
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
    x + beta · (x_{k+1} − x), in order to find a nearer one. It ends when for
    every image of the batch one has been found that lies inside the ball.
    Where none does, δ is 0: as published, a point outside is not brought
    inside by a projection.

    Each of the most likely wrong classes of the clean image is the target of
    a stage. The first search for a target starts from the image, further ones
    from random points at half the radius.

    Args:
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        epsilon: Radius in pixel units of [0, 1]. Defaults to `None`: 8/255
            for ℓ∞, 128/255 for ℓ2.
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
        bounds: Smallest and largest pixel value. Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: For an unknown norm, or a number out of range.

    Example:

    ```python
    classifier = keras_wake.models.SmallCNN()
    attack = keras_wake.attacks.FAB("l2", epsilon=0.5, target_classes=3)
    x = np.random.uniform(size=(8, 32, 32, 3)).astype("float32")
    y = np.arange(8)
    x_adv = attack(classifier, x, y, seed=0)  # (8, 32, 32, 3)
    ```
    """

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

    def _targets_for(self, num_classes: int) -> int:
        return min(self.target_classes, num_classes - 1)

    def stages_for(self, num_classes: int) -> int:
        """Number of restarts, times that of targets."""
        return self.restarts * self._targets_for(num_classes)

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
        factor = numerics.SIZE if half else 1.0

        def difference(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_of(images)
            h = logit_of(target, logits) - logit_of(labels, logits)
            return factor * ops.sum(h), h

        def linearised(delta: Tensor) -> tuple[Tensor, Tensor]:
            gradient, h = backend.gradient_and_outputs(difference, x + delta)
            return h, numerics.finite(gradient) / factor

        def is_adversarial(delta: Tensor) -> Tensor:
            return searched_margin(labels, logits_of(x + delta)) > 0

        start = 0.5 * self.threat_model.random_on_sphere(x, seed)
        start = ops.where(stage < targets, ops.zeros_like(x), start)
        return self._search(linearised, is_adversarial, start, x)

    def _search(
        self,
        linearised: Callable,
        is_adversarial: Callable,
        start: Tensor,
        x: Tensor,
    ) -> Tensor:
        """Goes back and forth over the boundary, from δ = `start` on.

        `linearised` maps δ to h at x + δ, (batch,), and its gradient;
        `is_adversarial` to whether x + δ is misclassified, (batch,).
        """

        def goes_on(*values: Tensor) -> Tensor:
            state = _State(*values)
            return ops.logical_and(
                state.step < self.steps, ops.any(~state.found)
            )

        def step(*values: Tensor) -> _State:
            state = _State(*values)
            h, gradient = linearised(state.delta)
            delta = self._stepped(state.delta, h, gradient, x)
            crossed = is_adversarial(delta)
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
                kept=ops.where(per_sample(first, x), delta, state.kept),
                found=ops.logical_or(state.found, success),
            )

        begin = _State(
            step=ops.zeros((), "int32"),
            delta=start,
            kept=ops.zeros_like(x),
            found=self.threat_model.size(start) < 0,
        )
        return _State(*ops.while_loop(goes_on, step, begin)).kept

    def _stepped(
        self, delta: Tensor, h: Tensor, gradient: Tensor, x: Tensor
    ) -> Tensor:
        """The next δ, from h and its gradient at x + δ."""
        batch = ops.shape(h)[0]
        flat = (-1, math.prod(x.shape[1:]))
        normal = ops.reshape(gradient, flat)
        # The linearised h at x is h − ⟨gradient, δ⟩.
        moved = ops.sum(normal * ops.reshape(delta, flat), axis=1)
        # Both in one call: each call has a fixed cost, for sorting.
        both = STEPS[self.norm](
            ops.concatenate(
                [ops.reshape(x + delta, flat), ops.reshape(x, flat)]
            ),
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
        delta = (1 - alpha) * (delta + self.eta * from_here) + (
            alpha * self.eta * from_clean
        )
        # Where h is NaN or infinite, the search starts again from the image.
        delta = numerics.finite(delta)
        return ops.clip(x + delta, *self.bounds) - x

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "steps": self.steps,
            "restarts": self.restarts,
            "target_classes": self.target_classes,
            "alpha_max": self.alpha_max,
            "eta": self.eta,
            "beta": self.beta,
        }


class _State(NamedTuple):
    """Where the search stands; of each image, shape (batch,) or like δ."""

    step: Tensor  # number of the next one, int32 scalar
    delta: Tensor
    kept: Tensor  # the first δ inside the ball that is misclassified, else 0
    found: Tensor  # whether there is one

"""APGD: projected gradient descent that chooses its step sizes by itself."""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks.logits import ATTACK_LOSSES
from keras_wake.attacks.logits import likely_wrong_class
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.search import until_found
from keras_wake.attacks.staged import StagedAttack
from keras_wake.attacks.threat_model import per_sample
from keras_wake.backend import numerics
from keras_wake.losses.margin import margin_for_search
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Tensor

# Share of the newest gradient step in an update; the rest is momentum.
_ALPHA = 0.75
# Below any loss, and finite, so that sums over draws are finite.
_LOWEST_LOSS = -1e30


@keras.saving.register_keras_serializable(package="keras_wake")
class APGD(StagedAttack):
    """Auto-PGD (Croce & Hein 2020), which needs no step size.

    From a random point of norm epsilon, with η = 2 · epsilon at first:

        z ← Π(δ_k + η · direction(∇_δ L(x + δ_k)))
        δ_{k+1} ← Π(δ_k + 0.75 · (z − δ_k) + 0.25 · (δ_k − δ_{k−1}))

    Π projects onto the ball and into the bounds; the first step has no
    momentum. At the checkpoints w_j = ⌈p_j · steps⌉, with p_0 = 0, p_1 = 0.22
    and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), η is halved and the
    search goes back to the best point so far, for each image for itself, if
    since the checkpoint before

    1. the loss has risen in fewer than rho · (w_j − w_{j−1}) steps, or
    2. the best loss has not risen, and η was not halved at that checkpoint.

    Args:
        norm: As for `ThreatModel`. Defaults to `"linf"`.
        epsilon: As for `ThreatModel`. Defaults to `None`.
        steps: Number of steps. Defaults to `100`.
        loss: L, what is maximised: `"cross_entropy"`; `"dlr"`, the
            difference of logits ratio; or `"dlr_targeted"`, the same towards
            one of the most likely wrong classes of the clean image, each of
            which is a stage. With K = 2 classes `"dlr"`, and with K < 4
            `"dlr_targeted"`, is not defined, and the margin of the logits
            takes its place. Defaults to `"cross_entropy"`.
        restarts: Number of random starts, of each target where there are
            targets. Defaults to `1`.
        target_classes: Largest number of targets; there are at most K − 1.
            Counts for `"dlr_targeted"` alone. Defaults to `9`.
        bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.
        rho: Share of the steps that must raise the loss. Defaults to `0.75`.
        eot_samples: Over how many passes, with random numbers of their own,
            losses and gradients are averaged: the expectation over
            transformation (Athalye et al. 2018), for networks with random
            layers. Defaults to `1`.

    Raises:
        ValueError: For an unknown norm or loss, or a number out of range.

    Example:

    >>> APGD("linf", epsilon=8 / 255, loss="dlr").name
    'APGD-DLR'
    """

    _arguments = (
        *("steps", "loss", "restarts", "target_classes", "rho", "eot_samples"),
    )

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        steps: int = 100,
        loss: str = "cross_entropy",
        restarts: int = 1,
        target_classes: int = 9,
        bounds: tuple[float, float] = (0.0, 1.0),
        rho: float = 0.75,
        eot_samples: int = 1,
    ) -> None:
        super().__init__(norm, epsilon, bounds)
        self.steps = validate.integer(1, steps=steps)
        self.loss = validate.one_of(ATTACK_LOSSES, loss=loss)
        self.restarts = validate.integer(1, restarts=restarts)
        self.target_classes = validate.integer(1, target_classes=target_classes)
        self.rho = validate.in_range(0, 1, rho=rho)
        self.eot_samples = validate.integer(1, eot_samples=eot_samples)
        self.targeted = ATTACK_LOSSES[loss].targeted

    @functools.cached_property
    def name(self) -> str:
        """`APGD-CE`, `APGD-DLR` or `APGD-T`, by its loss."""
        return f"APGD-{ATTACK_LOSSES[self.loss].short_name}"

    def passes(self, num_classes: int) -> tuple[int, int]:
        """Largest number of passes of one stage for each image.

        `eot_samples` forward and backward passes for each step and for the
        start, and one forward pass to choose a target.
        """
        points = self.eot_samples * (self.steps + 1)
        return points + int(self.targeted), points

    def note(self, num_classes: int) -> str | None:
        """What is different because there are so few classes, or `None`."""
        loss = ATTACK_LOSSES[self.loss]
        if num_classes >= loss.fewest_classes:
            return None
        return loss.substitute.format(num_classes)

    def run_stage(
        self,
        classifier: Callable,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Perturbations that one start has led to, float32 like `x`."""
        logits_of = stateless_logits(classifier)
        targets = labels  # A loss without targets ignores them.
        if self.targeted:
            number = ops.mod(stage, self._targets_for(labels.shape[-1]))
            targets = likely_wrong_class(labels, logits_of(x), number)

        def at(those: _Given, delta: Tensor, draw: Tensor = None) -> tuple:
            """Loss, margin and gradient of one pass."""
            labels = those.labels
            loss = ATTACK_LOSSES[self.loss](classifier, labels, those.targets)

            def objective(images: Tensor) -> tuple:
                logits = logits_of(images, draw)
                losses, total = loss.values_and_total(logits)
                return total, (losses, margin_for_search(labels, logits))

            gradient, (losses, margins) = backend.gradient_and_outputs(
                objective, those.x + delta
            )
            # No later loss would count as larger than NaN.
            losses = ops.where(ops.isnan(losses), _LOWEST_LOSS, losses)
            # A NaN of one draw must not spoil the sum over draws.
            return losses, margins, numerics.finite(gradient)

        def evaluate(those: _Given, delta: Tensor, number: Tensor) -> tuple:
            """Loss, misclassification and direction of ascent at x + δ."""
            if self.eot_samples == 1:
                losses, margins, gradient = at(those, delta)
                return losses, margins > 0, gradient

            def add(index: Tensor, sums: tuple) -> tuple:
                draw = self.eot_samples * number + ops.cast(index, "int32")
                return tuple(map(ops.add, sums, at(those, delta, draw)))

            zeros = ops.zeros_like(those.labels[:, 0])
            start = (zeros, zeros, ops.zeros_like(delta))
            losses, margins, gradient = ops.fori_loop(
                0, self.eot_samples, add, start
            )
            # The direction is the same for the sum of gradients.
            return losses / self.eot_samples, margins > 0, gradient

        start = self.threat_model.random_on_sphere(x, seed)
        return self._search(evaluate, start, _Given(x, labels, targets))

    def _search(
        self, evaluate: Callable, start: Tensor, given: "_Given"
    ) -> Tensor:
        """Follows the gradient from δ = `start` on.

        `evaluate` maps what is given, δ and its number to three tensors: the
        loss (batch,), whether x + δ is misclassified (batch,), and the
        gradient, like δ.
        """
        threat = self.threat_model
        schedule = self._schedule()

        def step(given: _Given, state: _State) -> _State:
            x = given.x
            alpha = ops.where(state.step == 0, 1.0, _ALPHA)
            # Keras turns Python numbers into `floatx`, which may be float64.
            alpha = ops.cast(alpha, "float32")
            size = per_sample(state.step_size, x)
            ascent = state.delta + size * threat.steepest(state.gradient)
            ascent = threat.project(ascent, x)
            delta = threat.project(
                state.delta
                + alpha * (ascent - state.delta)
                + (1 - alpha) * (state.delta - state.previous),
                x,
            )
            number = state.step + 1
            moved = _after_step(state, delta, evaluate(given, delta, number))
            return _at_checkpoint(
                moved, *(ops.take(a, state.step) for a in schedule)
            )

        first = evaluate(given, start, ops.zeros((), "int32"))
        begin = _initial_state(start, first, self.epsilon)
        return until_found(
            step,
            given,
            begin,
            self.steps,
            lambda end: backend.where_sample(
                end.found, end.adversarial, end.best
            ),
        )

    def _schedule(self) -> tuple[Tensor, Tensor]:
        """For each step: whether it is a checkpoint, and the rises it needs."""
        is_checkpoint = np.zeros(self.steps, "bool")
        rises_needed = np.zeros(self.steps, "float32")
        last_steps = np.array(checkpoints(self.steps)) - 1
        is_checkpoint[last_steps] = True
        rises_needed[last_steps] = self.rho * np.diff(last_steps, prepend=-1)
        return tuple(map(ops.convert_to_tensor, (is_checkpoint, rises_needed)))


def checkpoints(steps: int) -> list[int]:
    """The steps after which APGD checks its progress.

    Example:

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # As fractions: in floats, 0.41 · 100 is above 41.
    share, before = Fraction(22, 100), Fraction(0)
    found: list[int] = []
    while share < 1:
        found.append(math.ceil(share * steps))
        width = max(share - before - Fraction(3, 100), Fraction(6, 100))
        share, before = share + width, share
    # With few steps several fall together.
    return sorted(set(found))


class _Given(NamedTuple):
    """What no step of the search changes, for each image."""

    x: Tensor
    labels: Tensor
    targets: Tensor


class _State(NamedTuple):
    """The state of the search: for each image, shape (batch,) or like δ."""

    step: Tensor  # number of the next one, int32 scalar
    delta: Tensor
    previous: Tensor  # the δ before
    gradient: Tensor  # at δ
    loss: Tensor  # at δ
    step_size: Tensor  # η
    rises: Tensor  # of the loss, since the last checkpoint
    best: Tensor  # the δ with the largest loss so far
    best_gradient: Tensor
    best_loss: Tensor
    checked_loss: Tensor  # best_loss at the last checkpoint
    halved: Tensor  # whether η was halved there
    adversarial: Tensor  # the first δ that is misclassified
    found: Tensor  # whether there is one


def _initial_state(start: Tensor, first: tuple, epsilon: float) -> _State:
    """At the start, before the first step; `first` was found there."""
    loss, found, gradient = first
    return _State(
        step=ops.zeros((), "int32"),
        delta=start,
        previous=start,
        gradient=gradient,
        loss=loss,
        step_size=2 * epsilon * ops.ones_like(loss),
        rises=ops.zeros_like(loss),
        best=start,
        best_gradient=gradient,
        best_loss=loss,
        checked_loss=loss,
        halved=ops.zeros_like(found),
        adversarial=start,
        found=found,
    )


def _after_step(state: _State, delta: Tensor, newest: tuple) -> _State:
    """After a step to `delta`; `newest` was found there."""
    loss, misclassified, gradient = newest
    first = ops.logical_and(misclassified, ~state.found)
    better = loss > state.best_loss
    return state._replace(
        step=state.step + 1,
        delta=delta,
        previous=state.delta,
        gradient=gradient,
        loss=loss,
        rises=state.rises + ops.cast(loss > state.loss, "float32"),
        best=backend.where_sample(better, delta, state.best),
        best_gradient=backend.where_sample(
            better, gradient, state.best_gradient
        ),
        # `ops.maximum` would keep a NaN for good.
        best_loss=ops.where(better, loss, state.best_loss),
        adversarial=backend.where_sample(first, delta, state.adversarial),
        found=ops.logical_or(state.found, misclassified),
    )


def _at_checkpoint(
    state: _State, is_checkpoint: Tensor, rises_needed: Tensor
) -> _State:
    """At a checkpoint: halves η and goes back, where the loss stalls."""
    stands_still = ops.logical_and(
        ~state.halved, state.best_loss <= state.checked_loss
    )
    halve = ops.logical_or(state.rises < rises_needed, stands_still)
    now = ops.logical_and(halve, is_checkpoint)
    return state._replace(
        delta=backend.where_sample(now, state.best, state.delta),
        gradient=backend.where_sample(now, state.best_gradient, state.gradient),
        loss=ops.where(now, state.best_loss, state.loss),
        step_size=ops.where(now, state.step_size / 2, state.step_size),
        rises=ops.where(is_checkpoint, 0.0, state.rises),
        checked_loss=ops.where(
            is_checkpoint, state.best_loss, state.checked_loss
        ),
        halved=ops.where(is_checkpoint, halve, state.halved),
    )

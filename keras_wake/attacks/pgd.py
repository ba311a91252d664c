"""Projected gradient descent and its one-step relative, FGSM."""

import functools
from collections.abc import Callable

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.attack import Attack
from keras_wake.attacks.attack import HasAttackLoss
from keras_wake.attacks.logits import CrossEntropy
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.threat_model import ThreatModel
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.seeds import Seed
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018), untargeted.

    From δ = 0 or a random start, `steps` times:

        δ ← Π_ball(δ + step_size · direction(∇_δ Σ_i L(x_i + δ_i)))
        δ ← clip(x + δ, bounds) − x

    L is the cross-entropy CE(f(x + δ), y), or the divergence
    KL(f(x) ‖ f(x + δ)) of TRADES (Zhang et al. 2019). The direction is the
    sign of the gradient for ℓ∞ and the gradient divided by its ℓ2 norm for
    ℓ2. Where an element of the gradient is NaN or infinite, it counts as 0,
    and later steps take the gradient there a little further inside the bounds.
    The loss is a sum over samples, so that δ_i does not depend on the other
    images of the batch. The classifier runs in inference mode. Its batch-norm
    statistics and its dropout state stay as they are.

    Args:
        norm: As for `ThreatModel`. Defaults to `"linf"`.
        epsilon: As for `ThreatModel`. Defaults to `None`.
        step_size: Length of a step in the same units. Defaults to `None`:
            epsilon / 4 for ℓ∞, epsilon / 8 for ℓ2.
        steps: Number of steps. With `steps=0` or `epsilon=0` the attack
            returns `x`. Defaults to `10`.
        random_start: Whether to start at a random point of the ball: for ℓ∞
            uniform in it, for ℓ2 a Gaussian direction with a radius uniform
            in [0, epsilon]; for `"kl"`, as published, 0.001 times Gaussian
            noise. Defaults to `True`.
        bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.
        training: Whether to run the classifier in training mode instead, with
            batch statistics and dropout; δ then depends on the whole batch,
            the state of the classifier still stays as it is. Defaults to
            `False`.
        loss: L: `"cross_entropy"` or `"kl"`. Defaults to `None`: in the
            training step of a `WakeModel` that of its objective, elsewhere
            the cross-entropy.

    Raises:
        ValueError: For an unknown norm or loss, for a radius, step size or
            number of steps that is negative or larger than the range of
            pixels, and for `loss="kl"` without a random start, where its
            gradient is 0.

    Example:

    ```python
    classifier = kw.models.SmallCNN()
    attack = kw.attacks.PGD("linf", epsilon=8/255, step_size=2/255)
    x = np.random.uniform(size=(8, 32, 32, 3)).astype("float32")
    y = np.arange(8)
    x_adv = attack(classifier, x, y, seed=0)  # (8, 32, 32, 3)
    ```
    """

    _arguments: tuple[str, ...] = (
        *("step_size", "steps", "random_start", "training", "loss"),
    )

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        step_size: float | None = None,
        steps: int = 10,
        random_start: bool = True,
        bounds: tuple[float, float] = (0.0, 1.0),
        training: bool = False,
        loss: str | None = None,
    ) -> None:
        super().__init__(norm, epsilon, bounds)
        if step_size is None:
            step_size = self.threat_model.usual_step_size
        self.step_size = self.threat_model.check_length(step_size=step_size)
        self.steps = validate.integer(0, steps=steps)
        self.random_start = validate.boolean(random_start=random_start)
        self.training = validate.boolean(training=training)
        self.loss = validate.one_of((None, "cross_entropy", "kl"), loss=loss)
        # A `run` of a subclass takes what `keras.random` takes.
        self._draws_by_sample = type(self).run is PGD.run
        if loss == "kl" and not random_start:
            raise ValueError(
                'An attack with `loss="kl"`, that of TRADES, needs a random '
                "start: at δ = 0 the divergence has no gradient. Received: "
                f"{type(self).__name__}(..., random_start=False). Pass "
                '`random_start=True`, or `loss="cross_entropy"` to ascend the '
                "cross-entropy instead."
            )

    @functools.cached_property
    def name(self) -> str:
        """`PGD-20` for 20 steps; of a subclass the name of the class."""
        return f"PGD-{self.steps}" if type(self) is PGD else super().name

    def passes(self, num_classes: int) -> tuple[int, int]:
        """One forward and one backward pass for each step."""
        return self.steps, self.steps

    def for_objective(self, objective: HasAttackLoss) -> "PGD":
        """This attack, with the loss of an objective where it has none."""
        if self.loss is not None:
            return self
        config = {**self.get_config(), "loss": objective.attack_loss}
        return self.from_config(config)

    def run(
        self, classifier: Callable, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Perturbations after `steps` steps, float32 like `x`."""
        if self.steps == 0 or self.epsilon == 0:
            return ops.zeros_like(x)
        threat = self.threat_model
        threat.check_images(x, step_size=self.step_size)

        if not self.random_start:
            delta = ops.zeros_like(x)
        elif self.loss == "kl":
            if isinstance(seed, SampleSeed):
                noise = 1e-3 * seed.normal(0, tuple(x.shape[1:]))
            else:
                noise = keras.random.normal(
                    ops.shape(x), stddev=1e-3, dtype="float32", seed=seed
                )
            delta = threat.project(noise, x)
        else:
            delta = threat.random_perturbation(x, seed)

        ascend = functools.partial(self._ascend, classifier)
        if self.training:
            # Batch statistics need the batch as a whole.
            return ascend(delta, x, labels)
        return backend.side_by_side(ascend, delta, x, labels)

    def _ascend(
        self, classifier: Callable, delta: Tensor, x: Tensor, labels: Tensor
    ) -> Tensor:
        """δ after `steps` steps from `delta`."""
        threat = self.threat_model
        logits_of = stateless_logits(classifier, self.training)

        target = labels
        if self.loss == "kl":
            # KL(p ‖ q) and the cross-entropy of p and q differ by the entropy
            # of p, which does not depend on δ.
            clean = backend.without_gradient(lambda: logits_of(x))
            target = ops.softmax(ops.cast(clean, "float32"), axis=-1)
        loss = CrossEntropy(classifier, target)

        def total_loss(images: Tensor) -> Tensor:
            return loss.values_and_total(logits_of(images))[1]

        def step(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            delta, origin = state
            gradient = backend.gradient(total_loss, origin + delta)
            direction, origin = threat.steepest_and_origin(gradient, origin, x)
            delta = delta + self.step_size * direction
            return threat.project(delta, x), origin

        return backend.repeat(self.steps, step, (delta, x))[0]

    @staticmethod
    def for_evaluation(attack: Attack, steps: int = 20) -> "PGD":
        """PGD as it is used to evaluate, in the threat model of `attack`.

        It follows the cross-entropy from a random start, in steps of the usual
        size.

        Args:
            attack: Any attack.
            steps: Number of steps. Defaults to `20`.
        """
        return PGD(
            norm=attack.norm,
            epsilon=attack.epsilon,
            steps=steps,
            bounds=attack.bounds,
            loss="cross_entropy",
        )


@keras.saving.register_keras_serializable(package="keras_wake")
class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015): PGD in one step.

    Args:
        norm: As for `ThreatModel`. Defaults to `"linf"`.
        epsilon: As for `ThreatModel`. Defaults to `None`.
        step_size: Length of the step. Defaults to `None`: epsilon.
        random_start: As for `PGD`. Defaults to `False`.
        bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.
        training: As for `PGD`. Defaults to `False`.
        loss: As for `PGD`. Defaults to `None`.

    Example:

    >>> FGSM(epsilon=8 / 255).steps
    1
    """

    _arguments = ("step_size", "random_start", "training", "loss")

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        step_size: float | None = None,
        random_start: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
        training: bool = False,
        loss: str | None = None,
    ) -> None:
        if step_size is None:
            step_size = ThreatModel(norm, epsilon, bounds).epsilon
        super().__init__(
            norm, epsilon, step_size, 1, random_start, bounds, training, loss
        )

    @classmethod
    def fast_at(
        cls,
        epsilon: float = 8 / 255,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> "FGSM":
        """FGSM-RS, the attack of Fast-AT (Wong et al. 2020).

        One ℓ∞ step of 1.25 · epsilon from a uniform random start.

        Args:
            epsilon: As for `ThreatModel`. Defaults to `8/255`.
            bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.

        Example:

        >>> FGSM.fast_at(epsilon=8 / 255).random_start
        True
        """
        return cls(
            epsilon=epsilon,
            step_size=1.25 * epsilon,
            random_start=True,
            bounds=bounds,
        )

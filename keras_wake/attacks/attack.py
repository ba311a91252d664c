"""What all attacks share: checks, compilation, and the final guarantee.

The author of an attack writes `run`. Users call the attack on a classifier and
a batch. A training step calls `perturb` with tensors that are checked already,
an evaluation calls `perturb_stage`. All of them end in the same projection, so
that no attack leaves its threat model.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.threat_model import Fixed
from keras_wake.attacks.threat_model import ThreatModel
from keras_wake.backend import numerics
from keras_wake.backend.layer_settings import PerModel
from keras_wake.data.batches import checked_batch
from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import image_shape
from keras_wake.utils import validate
from keras_wake.utils.configured import Configured
from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.seeds import Seed
from keras_wake.utils.types import Array
from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor


class HasAttackLoss(Protocol):
    """An objective, as far as an attack needs to know it."""

    attack_loss: str


class Attack(Fixed, Configured):
    """Base of all attacks; its arguments are those of `ThreatModel`.

    A subclass must define `run`. Everything else has a default: `name`,
    `passes`, `note` and `longer` tell an evaluation what to report and to
    check, `for_objective` lets the attack take over the loss of an objective.
    """

    # Over how many passes the attack averages losses and gradients.
    eot_samples = 1
    # Whether the network runs as in training, with the batch's statistics.
    training = False
    # Whether `run` takes a `SampleSeed`, too.
    _draws_by_sample = False

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.threat_model = ThreatModel(norm, epsilon, bounds)
        self.norm = self.threat_model.norm
        self.epsilon = self.threat_model.epsilon
        self.bounds = self.threat_model.bounds
        self._compiled = PerModel()

    @functools.cached_property
    def name(self) -> str:
        """What reports and progress bars call the attack."""
        return type(self).__name__

    @functools.cached_property
    def longer(self) -> "Attack | None":
        """The same attack with twice the steps, if it has at least two."""
        config = self.get_config()
        steps = config.get("steps")
        if not isinstance(steps, int) or steps < 2:
            return None
        try:
            return self.from_config({**config, "steps": 2 * steps})
        except Exception:  # The author's own: no reason to stop an evaluation.
            return None

    def stages_for(self, num_classes: int) -> int:
        """Number of stages on a classifier with so many classes."""
        return 1

    def passes(self, num_classes: int) -> tuple[int, int] | None:
        """Largest number of forward and of backward passes of one stage.

        `None` where it is not known.
        """
        return None

    def note(self, num_classes: int) -> str | None:
        """What is different because there are so few classes, or `None`."""
        return None

    def check_image_shape(self, shape: tuple) -> None:
        """Refuses images (batch, *shape) that the attack cannot run on."""
        self.threat_model.check_image_shape(shape)

    def for_objective(self, objective: HasAttackLoss) -> "Attack":
        """The attack for the training step of an objective: itself."""
        return self

    def run(
        self, classifier: Callable, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Finds perturbations; what a subclass defines.

        Args:
            classifier: Maps images (batch, ...) to logits (batch, K).
            x: Float32 tensor (batch, ...), clean images.
            labels: Float32 tensor (batch, K), one-hot or soft.
            seed: What `keras.random` functions take as `seed`.

        Returns:
            Float32 tensor of perturbations, same shape as `x`.
        """
        raise TypeError(
            f"`{type(self).__name__}` must define "
            "`run(classifier, x, labels, seed)`."
        )

    def perturb(
        self, classifier: keras.Model, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Adversarial images inside a step that is being compiled.

        The arguments are those of `run`, or a `SampleSeed` for these images.
        The images are within the threat model, and have no gradient.
        """
        if isinstance(seed, SampleSeed) and not self._draws_by_sample:
            # `keras.random` draws for the batch as a whole. The first sample,
            # if there is one, tells one batch from another.
            seed = CounterSeed(seed.seed, ops.sum(seed.ids[:1]))
        x = ops.convert_to_tensor(x, "float32")
        labels = ops.convert_to_tensor(labels, "float32")
        self.threat_model.check_images(x)
        return self._guaranteed(self.run(classifier, x, labels, seed), x)

    def perturb_stage(
        self,
        classifier: keras.Model,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Adversarial images of one stage of an evaluation.

        By default there is one stage.

        The arguments are those of `run`, with a `SampleSeed` for these images
        and the number of the stage, an int32 scalar.
        """
        return self.perturb(classifier, x, labels, seed)

    def _guaranteed(self, delta: Tensor, x: Tensor) -> Tensor:
        """x + δ, finite, in the ball around `x` and in the bounds."""
        delta = numerics.finite(ops.convert_to_tensor(delta))
        delta = self.threat_model.project(delta, x)
        # Once more after the addition, which rounds.
        return ops.stop_gradient(ops.clip(x + delta, *self.bounds))

    def __call__(
        self,
        classifier: keras.Model,
        x: Array | Tensor,
        y: Array | Tensor,
        seed: int | None = None,
    ) -> Tensor:
        """Attacks one batch of images.

        What is compiled for a classifier is used again, until a layer is
        exchanged or gets another public attribute.

        Args:
            classifier: Built `keras.Model` that returns logits (batch, K).
            x: Float array (batch, ...), images within the bounds.
            y: Integer array (batch,), or one-hot or soft labels (batch, K).
            seed: Integer for random numbers that are the same in every
                call. Defaults to `None`: new ones in every call, drawn from
                Keras's global generator (`keras.utils.set_random_seed`).

        Returns:
            Float32 tensor like `x`: x + δ, within the threat model.

        Raises:
            TypeError, ValueError: If the classifier is no model that returns
                logits, for images outside the bounds or with NaN, or for
                labels that name no class.
        """
        return self._call(classifier, x, y, seed)

    def _call(
        self,
        classifier: keras.Model,
        x: Array | Tensor,
        y: Array | Tensor,
        seed: int | None,
        *ids: Tensor,
    ) -> Tensor:
        """A call; `ids` are the numbers of the images, if they have any."""
        if not isinstance(classifier, keras.Model):
            check_classifier(classifier)
        run, num_classes = self._compiled.get(classifier, self._compile)
        shape = image_shape(classifier)
        x, labels = checked_batch(
            x, y, num_classes, self.bounds, "of the batch", shape
        )
        if seed is None:
            seed = keras.random.randint((), 0, 2**31 - 1)
        else:
            seed = validate.seed(seed=seed)
        return run(x, labels, ops.cast(seed, "uint32"), *ids)

    def _compile(self, reference: Callable) -> tuple[Callable, int]:
        num_classes = check_classifier(reference())

        def run(
            x: Tensor, labels: Tensor, seed: Tensor, *ids: Tensor
        ) -> Tensor:
            made = SampleSeed(seed, *ids) if ids else CounterSeed(seed)
            return self.perturb(reference(), x, labels, made)

        return backend.compile(run, reference), num_classes

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        threat = {"norm": self.norm, "epsilon": self.epsilon}
        return {**threat, "bounds": list(self.bounds), **super().get_config()}

"""Attacks that try several times: with other targets, or from other starts.

Each try is a stage. An evaluation runs one stage on all images, and the next
one on those that still stand. The number of the stage is an argument of the
compiled step, so that all stages share what is compiled.
"""

from collections.abc import Callable
from collections.abc import Sized

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks.attack import Attack
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.threat_model import per_sample
from keras_wake.losses.margin import searched_margin
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.seeds import Seed
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor


class StagedAttack(Attack):
    """Base of the attacks of an evaluation, which run in stages.

    A subclass defines `run_stage`, `stages_for` and `passes`. What is found
    for an image depends on the image, its label, its number and the seed. It
    depends neither on the other images of the batch nor on their order.
    `perturb` leaves an image as it is if the classifier is wrong about it
    without an attack.

    Args:
        norm: `"linf"` or `"l2"`.
        epsilon: Radius in pixel units of [0, 1]. Defaults to `None`: 8/255
            for ℓ∞, 128/255 for ℓ2.
        bounds: Smallest and largest pixel value. Defaults to `(0.0, 1.0)`.
    """

    def stages_for(self, num_classes: int) -> int:
        """Number of stages on a classifier with so many classes."""
        raise TypeError(
            f"`{type(self).__name__}` must define `stages_for(num_classes)`."
        )

    def passes(self, num_classes: int) -> tuple[int, int] | None:
        """Largest number of passes of one stage, as of every attack.

        The stage may end earlier for a batch whose images are all
        misclassified.
        """
        raise TypeError(
            f"`{type(self).__name__}` must define `passes(num_classes)`."
        )

    def run_stage(
        self,
        classifier: Callable,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Finds perturbations; what a subclass defines.

        Args:
            classifier: Maps images (batch, ...) to logits (batch, K).
            x: Float32 tensor (batch, ...), clean images.
            labels: Float32 tensor (batch, K), one-hot or soft.
            seed: A `SampleSeed` of its own for this stage.
            stage: Int32 scalar tensor, from 0.

        Returns:
            Float32 tensor like `x`: for each image the first perturbation
            that is misclassified, else the best one.
        """
        raise TypeError(
            f"`{type(self).__name__}` must define "
            "`run_stage(classifier, x, labels, seed, stage)`."
        )

    def perturb_stage(
        self,
        classifier: keras.Model,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Adversarial images of one stage, as of every attack."""
        x = ops.convert_to_tensor(x, "float32")
        labels = ops.convert_to_tensor(labels, "float32")
        self.check_image_shape(tuple(x.shape[1:]))
        stage = ops.cast(stage, "int32")
        seed = seed.substream(stage)

        if self.epsilon == 0:
            return self._guaranteed(ops.zeros_like(x), x)

        def attacked(x: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
            delta = self.run_stage(
                classifier, x, labels, seed.for_samples(ids), stage
            )
            return self._guaranteed(delta, x)

        return backend.side_by_side(attacked, x, labels, seed.ids)

    def perturb(
        self, classifier: keras.Model, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Adversarial images of all stages, in a step that is being compiled.

        Of each image it is what the first stage that succeeds has found, else
        what the last one has.
        """
        x = ops.convert_to_tensor(x, "float32")
        labels = ops.convert_to_tensor(labels, "float32")
        seed = SampleSeed.of(seed, ops.shape(x)[0])
        logits_of = stateless_logits(classifier)
        stages = self.stages_for(labels.shape[-1])

        def succeeds(images: Tensor) -> Tensor:
            return searched_margin(labels, logits_of(images)) > 0

        def goes_on(stage: Tensor, found: Tensor, x_adv: Tensor) -> Tensor:
            return ops.logical_and(stage < stages, ops.any(~found))

        def attack(
            stage: Tensor, found: Tensor, x_adv: Tensor
        ) -> tuple[Tensor, ...]:
            newest = self.perturb_stage(classifier, x, labels, seed, stage)
            newest = ops.reshape(newest, ops.shape(x))
            x_adv = ops.where(per_sample(found, x), x_adv, newest)
            return stage + 1, ops.logical_or(found, succeeds(newest)), x_adv

        # The loop keeps the images and not x_adv − x: its rounding could
        # bring an image back over the boundary between two classes.
        start = (ops.zeros((), "int32"), succeeds(x), x)
        return ops.while_loop(goes_on, attack, start)[2]

    def run(
        self, classifier: Callable, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Perturbations of all stages, float32 like `x`."""
        return self.perturb(classifier, x, labels, seed) - x

    def __call__(
        self,
        classifier: keras.Model,
        x: Array | Tensor,
        y: Array | Tensor,
        seed: int | None = None,
        ids: Array | None = None,
    ) -> Tensor:
        """Attacks one batch of images.

        Args:
            classifier: As of every attack.
            x: As of every attack.
            y: As of every attack.
            seed: As of every attack.
            ids: Integer array (batch,), not negative: numbers of the images,
                by which their random numbers differ. Defaults to `None`:
                0, 1, ….

        Returns:
            Float32 tensor like `x`: x + δ, within the threat model.

        Raises:
            TypeError, ValueError: As of every attack, and for numbers that
                are no integers of at least 0, one for each image.
        """
        return self._call(classifier, x, y, seed, _checked_ids(ids, x))


def _checked_ids(ids: Array | None, x: Array | Tensor) -> Tensor:
    """Numbers of the images `x`, int32 (batch,)."""
    size = len(x) if isinstance(x, Sized) else 0
    if ids is None:
        return ops.arange(size, dtype="int32")
    ids = np.asarray(ops.convert_to_numpy(ids))
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            "`ids` must be integers, one for each image. Received: dtype "
            f"{ids.dtype}."
        )
    if ids.shape != (size,) or np.any(ids < 0):
        raise ValueError(
            "`ids` must be integers of at least 0, one for each image. "
            f"Received: {size} images and ids={ids!r}."
        )
    return ops.convert_to_tensor(ids, "int32")

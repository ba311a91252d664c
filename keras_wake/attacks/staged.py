"""Attacks that try several times: with other targets, or from other starts.

Each try is a stage. An evaluation runs one stage on all images, and the next
one on those that still stand. The number of the stage is an argument of the
compiled step, so that all stages share what is compiled.
"""

from collections.abc import Callable
from collections.abc import Sized
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks.attack import Attack
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.search import until_found
from keras_wake.losses.margin import margin_for_search
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.seeds import Seed
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor


class StagedAttack(Attack):
    """Base of the attacks of an evaluation, which run in stages.

    A subclass defines `run_stage`, and `stages_for` where it has several. What
    is found for an image depends on the image, its label, its number and the
    seed. It depends neither on the other images of the batch nor on their
    order. `perturb` leaves an image as it is if the classifier is wrong about
    it without an attack.
    """

    restarts = 1
    # Whether each stage has a target, one of the likeliest wrong classes, and
    # the largest number of targets.
    targeted = False
    target_classes = 1

    def _targets_for(self, num_classes: int) -> int:
        return min(self.target_classes, num_classes - 1) if self.targeted else 1

    def stages_for(self, num_classes: int) -> int:
        """Number of restarts, times that of targets."""
        return self.restarts * self._targets_for(num_classes)

    def run_stage(
        self,
        classifier: Callable,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Finds perturbations; what a subclass defines.

        For each image it is the first one that is misclassified, else the best
        one. The arguments are those of `perturb_stage`, with a seed of its own
        for each stage.
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
            part = seed.for_samples(ids)
            delta = self.run_stage(classifier, x, labels, part, stage)
            return self._guaranteed(delta, x)

        return backend.side_by_side(attacked, x, labels, seed.ids)

    def perturb(
        self, classifier: keras.Model, x: Tensor, labels: Tensor, seed: Seed
    ) -> Tensor:
        """Adversarial images of all stages, in a step that is being compiled.

        For each image, the result of the first stage that succeeds, else that
        of the last one.
        """
        x = ops.convert_to_tensor(x, "float32")
        labels = ops.convert_to_tensor(labels, "float32")
        seed = SampleSeed.of(seed, ops.shape(x)[0])
        logits_of = stateless_logits(classifier)

        def succeeds(labels: Tensor, images: Tensor) -> Tensor:
            return margin_for_search(labels, logits_of(images)) > 0

        def attack(those: _Images, now: _Stages) -> _Stages:
            newest = self.perturb_stage(
                classifier,
                those.x,
                those.labels,
                seed.for_samples(those.ids),
                now.step,
            )
            newest = ops.reshape(newest, ops.shape(those.x))
            return _Stages(
                step=now.step + 1,
                adversarial=backend.where_sample(
                    now.found, now.adversarial, newest
                ),
                found=ops.logical_or(now.found, succeeds(those.labels, newest)),
            )

        # The loop keeps the images and not x_adv − x: its rounding could
        # bring an image back over the boundary between two classes.
        return until_found(
            attack,
            _Images(x, labels, seed.ids),
            _Stages(ops.zeros((), "int32"), x, succeeds(labels, x)),
            self.stages_for(labels.shape[-1]),
            lambda now: now.adversarial,
        )

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
        """Attacks one batch of images, as every attack does.

        `ids`, integers (batch,) of at least 0, are numbers of the images, by
        which their random numbers differ. By default they are 0, 1, ….
        """
        return self._call(classifier, x, y, seed, _checked_ids(ids, x))


def _checked_ids(ids: Array | None, x: Array | Tensor) -> Tensor:
    """Numbers of the images `x`, int32 (batch,)."""
    size = len(x) if isinstance(x, Sized) else 0
    if ids is None:
        return ops.arange(size, dtype="int32")
    ids = ops.convert_to_numpy(ids)
    whole = np.issubdtype(ids.dtype, np.integer)
    if not whole or ids.shape != (size,) or np.any(ids < 0):
        raise (ValueError if whole else TypeError)(
            "`ids` must be integers of at least 0, one for each image. "
            f"Received: {size} images and ids={ids!r}."
        )
    return ops.convert_to_tensor(ids, "int32")


class _Images(NamedTuple):
    """What no stage changes, for each image."""

    x: Tensor
    labels: Tensor
    ids: Tensor


class _Stages(NamedTuple):
    """What the stages have found so far."""

    step: Tensor  # number of the next stage, int32 scalar
    adversarial: Tensor  # images, of the first success or of the last stage
    found: Tensor  # whether there was a success

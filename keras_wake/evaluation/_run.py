"""The attacks in their order, each on the samples that still stand."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_wake.attacks import Attack
from keras_wake.attacks import StagedAttack
from keras_wake.evaluation._passes import Passes
from keras_wake.evaluation._progress import Progress
from keras_wake.evaluation._progress import STANDS
from keras_wake.evaluation._progress import StateFile
from keras_wake.evaluation._progress import WRONG
from keras_wake.evaluation._samples import Samples

# What the rounding of x + δ may add to a radius or to a bound, in images
# whose pixels are at most 1.
TOLERANCE = 1e-6
# Keeps the random numbers of two attacks of a list apart.
_SPREAD = 7919


@dataclasses.dataclass(frozen=True, eq=False)
class NamedAttack:
    """An attack of a list.

    Attributes:
        name: What reports call it.
        attack: The attack.
    """

    name: str
    attack: Attack

    def stages(self, num_classes: int) -> int:
        """How many stages it has: 1 for an attack without stages."""
        if isinstance(self.attack, StagedAttack):
            return int(self.attack.stages_for(num_classes))
        return 1

    def check_image_shape(self, shape: tuple) -> None:
        """Refuses images (without the batch axis) that it cannot run on."""
        self.attack.threat_model.check_image_shape(shape)
        if isinstance(self.attack, StagedAttack):
            self.attack.check_image_shape(shape)


class Run:
    """Attacks samples until none stands or all attacks are through.

    Args:
        passes: The classifier.
        samples: What is attacked.
        attacks: In their order.
        seed: Integer seed of all random numbers.
        progress: Where to go on; it is changed.
        file: Where progress is written after every batch.
        adversarial: Float32 array like `samples.images`, in which the images
            of fallen samples are replaced; None to keep none.
        verbose: 0 for silence, 1 for bars, 2 for a line for each attack.
    """

    def __init__(
        self,
        passes: Passes,
        samples: Samples,
        attacks: list[NamedAttack],
        seed: int,
        progress: Progress,
        file: StateFile,
        adversarial: np.ndarray | None,
        verbose: int,
    ) -> None:
        self.passes = passes
        self.samples = samples
        self.attacks = attacks
        self.seed = seed
        self.progress = progress
        self.file = file
        self.adversarial = adversarial
        self.verbose = verbose

    def finish(self) -> None:
        """Runs what is left to run."""
        progress = self.progress
        while progress.attack < len(self.attacks):
            self._attack(self.attacks[progress.attack])
            progress.attack += 1
            progress.stage = 0
            self.file.write(progress)

    def _attack(self, named: NamedAttack) -> None:
        """All stages of the current attack."""
        progress = self.progress
        progress.begin_attack()
        # With a radius of 0 there is nothing but the clean images.
        stages = 0
        if named.attack.epsilon > 0:
            stages = named.stages(self.samples.labels.shape[1])
        bar = Bar(
            named.name,
            progress.attacked[-1] * stages,
            len(self.samples),
            self.verbose,
        )
        while progress.stage < stages:
            if progress.queue is None:
                progress.queue, progress.position = progress.standing, 0
            while progress.position < len(progress.in_queue):
                begin = time.perf_counter()
                self._batch(named)
                progress.seconds[-1] += time.perf_counter() - begin
                self.file.write(progress)
                left = len(progress.in_queue) - progress.position
                bar.update(
                    progress.attacked[-1] * (progress.stage + 1) - left,
                    len(progress.standing),
                )
            progress.stage += 1
            progress.queue = None
        bar.close(len(progress.standing))

    def _batch(self, named: NamedAttack) -> None:
        """The next batch of the queue."""
        progress, samples = self.progress, self.samples
        end = progress.position + self.passes.batch_size
        queue = progress.in_queue
        rows = queue[progress.position : end]
        found, wrong, allowed = attacked(
            self.passes,
            named.attack,
            samples,
            rows,
            seed_of(self.seed, progress.attack),
            progress.stage,
        )
        fell = np.flatnonzero(wrong & allowed)
        if self.adversarial is not None:
            self.file.append_images(found[fell], progress)
            progress.order.extend(rows[fell].tolist())
            self.adversarial[rows[fell]] = found[fell]
        progress.fallen_to[rows[fell]] = progress.attack + 1
        progress.passes[-1] += len(rows)
        progress.outside[-1] += int((~allowed).sum())
        progress.position = min(end, len(queue))


def clean_pass(passes: Passes, samples: Samples) -> np.ndarray:
    """The first `fallen_to` of a `Progress`."""
    right = passes.right(samples.images, samples.classes)
    return np.where(right, STANDS, WRONG)


def seed_of(seed: int, number: int) -> int:
    """The seed of an attack of a list, whose numbers count from 0."""
    return int(seed) + _SPREAD * number


def attacked(
    passes: Passes,
    attack: Attack,
    samples: Samples,
    rows: np.ndarray,
    seed: int,
    stage: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A stage of an attack on one batch of samples, and what came of it.

    Args:
        passes: The classifier.
        attack: The attack.
        samples: What is attacked.
        rows: Numbers of the samples of the batch.
        seed: Which random numbers.
        stage: The stage.

    Returns:
        The images, which of them are misclassified, and which are within the
        threat model: float32 (n, ...), bool (n,), bool (n,).
    """
    images = samples.images[rows]
    found = passes.attack(
        attack, images, samples.labels[rows], samples.ids[rows], seed, stage
    )
    # A pass of its own: what an attack says of its images is not asked.
    wrong = ~passes.right(found, samples.classes[rows])
    return found, wrong, inside(attack, images, found)


def inside(
    attack: Attack, images: np.ndarray, adversarial: np.ndarray
) -> np.ndarray:
    """Which adversarial images are within the threat model, bool (n,).

    Computed in float64 on the host, apart from the attack's own projection.
    """
    axes = tuple(range(1, images.ndim))
    delta = adversarial.astype("float64") - images
    if attack.norm == "linf":
        sizes = np.abs(delta).max(axis=axes)
    else:
        sizes = np.sqrt(np.square(delta).sum(axis=axes))
    low, high = attack.bounds
    # x + δ is rounded in proportion to the pixels.
    tolerance = TOLERANCE * max(1.0, attack.epsilon, abs(low), abs(high))
    return (
        (sizes <= attack.epsilon + tolerance)
        & (adversarial.min(axis=axes) >= low - tolerance)
        & (adversarial.max(axis=axes) <= high + tolerance)
    )


class Bar:
    """A progress bar of one attack, with the accuracy that is left."""

    def __init__(
        self, name: str, units: int, samples: int, verbose: int
    ) -> None:
        self.units, self.samples = units, samples
        self.key = f"robust accuracy after {name}"
        make: Callable[..., Any] = keras.utils.Progbar
        self.bar = (
            make(
                units,
                verbose=verbose,
                stateful_metrics=[self.key],
                unit_name="image",
            )
            if units and verbose
            else None
        )

    def update(self, done: int, standing: int) -> None:
        """Shows so many units as done, and what stands."""
        if self.bar is not None:
            share = standing / self.samples
            # Fewer images stand in a later stage, so that it ends early.
            self.bar.update(
                min(done, self.units), [(self.key, share)], finalize=False
            )

    def close(self, standing: int) -> None:
        """Ends the line."""
        if self.bar is not None:
            share = standing / self.samples
            self.bar.update(self.units, [(self.key, share)], finalize=True)

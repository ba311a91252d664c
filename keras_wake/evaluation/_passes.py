"""Forward passes and attacks on arrays of any length, in compiled batches.

What is compiled once serves all batches, although ever fewer samples stand:
where sizes are compiled in (XLA), the last batch is padded to a power of two.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake._per_model import PerModel
from keras_wake._random import CounterSeed
from keras_wake._random import SampleSeed
from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.attacks import StagedAttack
from keras_wake.attacks._attack_losses import CrossEntropy
from keras_wake.attacks._network import stateless_logits
from keras_wake.backend._common import cut_gradients_are_zero

# Smaller batches take no less time.
SMALLEST_BATCH = 8
# A prediction of a random classifier is that of most of so many passes.
VOTES = 20

_FORWARD = PerModel()
_GRADIENTS = PerModel()


class Passes:
    """A classifier, as far as an evaluation uses it.

    Args:
        classifier: A checked classifier.
        batch_size: Most images of a batch.
        random: Whether two passes over the same images differ. Then nothing
            is compiled that would draw the same numbers each time, and a
            prediction is that of most of `VOTES` passes: an image that one
            pass in ten gets wrong would fall sooner or later, were every
            attack judged by a single one.
    """

    def __init__(
        self, classifier: Any, batch_size: int, random: bool = False
    ) -> None:
        self.classifier = classifier
        self.batch_size = batch_size
        self.random = random
        # Looked up once: the model does not change in an evaluation.
        self._runs: dict[Any, Callable] = {}

    @property
    def votes(self) -> int:
        """How many forward passes a prediction takes."""
        return VOTES if self.random else 1

    def batches(self, count: int) -> Iterator[slice]:
        """The slices that cut so many samples into batches."""
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits (n, K) of a pass in inference mode."""
        if self.random:
            return self.eager_logits(images)
        run = self._compiled(_FORWARD, _compile_forward)
        return np.concatenate(
            [
                self._run(run, [images[part]])
                for part in self.batches(len(images))
            ]
        )

    def eager_logits(self, images: np.ndarray) -> np.ndarray:
        """The logits of passes that draw new numbers."""
        parts = []
        for part in self.batches(len(images)):
            tensor = ops.convert_to_tensor(images[part], "float32")
            logits = ops.cast(
                self.classifier(tensor, training=False), "float32"
            )
            parts.append(ops.convert_to_numpy(logits))
        return np.concatenate(parts)

    def predictions(self, images: np.ndarray) -> np.ndarray:
        """The predicted classes, int64 (n,); −1 where a logit is NaN."""
        return _most_frequent(
            np.stack(
                [_predicted(self.logits(images)) for _ in range(self.votes)]
            )
        )

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Gradients of the cross-entropy with respect to the images."""
        run = self._compiled(_GRADIENTS, _compile_gradient)
        return np.concatenate(
            [
                self._run(run, [images[part], labels[part]])
                for part in self.batches(len(images))
            ]
        )

    def attack(
        self,
        attack: Attack,
        images: np.ndarray,
        labels: np.ndarray,
        ids: np.ndarray,
        seed: int,
        stage: int = 0,
    ) -> np.ndarray:
        """Adversarial images of one batch.

        Args:
            attack: Any attack. A plain one has a single stage.
            images: Float32 array (n, ...) of at most `batch_size` images.
            labels: Float32 array (n, K), one-hot.
            ids: Int32 array (n,) that random numbers are made from.
            seed: Which random numbers.
            stage: The stage of a `StagedAttack`.
        """
        # Kept by the attack, so that it goes with it.
        run = self._compiled(
            vars(attack).setdefault("_evaluation", PerModel()),
            functools.partial(_compile_attack, attack),
        )
        scalars = [
            ops.convert_to_tensor(seed % 2**31, "int32"),
            ops.convert_to_tensor(stage, "int32"),
        ]
        found = self._run(run, [images, labels, ids], scalars)
        if found.shape != images.shape:
            raise ValueError(
                "An attack must return one perturbation for each image. "
                f"Received: shape {found.shape} for images of shape "
                f"{images.shape}, from {attack!r}."
            )
        return found

    def _compiled(self, kept: PerModel, make: Callable) -> Callable:
        if kept not in self._runs:
            self._runs[kept] = kept.get(self.classifier, make)
        return self._runs[kept]

    def _run(
        self, run: Callable, arrays: list[np.ndarray], scalars: Any = ()
    ) -> np.ndarray:
        """The rows that `run` makes of the rows of arrays."""
        count = len(arrays[0])
        size = padded_size(
            count,
            self.batch_size,
            backend.device_count(self.classifier),
            backend.jit_by_default(),
        )
        # Repeated, as an image of zeros could be out of bounds.
        rows = np.arange(size) % count
        tensors = [
            ops.convert_to_tensor(array if size == count else array[rows])
            for array in arrays
        ]
        result = ops.convert_to_numpy(run(*tensors, *scalars))
        return np.array(result[:count])


def _predicted(logits: np.ndarray) -> np.ndarray:
    found = np.argmax(logits, axis=1)
    return np.where(np.isnan(logits).any(axis=1), -1, found)


def _most_frequent(votes: np.ndarray) -> np.ndarray:
    """Of each column of an int64 array (votes, n), the most frequent value."""
    values = np.unique(votes)
    counts = (votes[:, :, None] == values).sum(axis=0)
    return values[np.argmax(counts, axis=1)]


def padded_size(
    count: int, batch_size: int, devices: int, fixed_sizes: bool
) -> int:
    """How many rows a batch of `count` samples is computed with.

    Args:
        count: Number of samples, at most `batch_size`.
        batch_size: The size of a full batch.
        devices: What the result must be a multiple of.
        fixed_sizes: Whether only a few sizes may occur: the full batch, and
            powers of two below it.
    """
    size = count
    if fixed_sizes:
        size = min(
            batch_size, max(SMALLEST_BATCH, 2 ** (count - 1).bit_length())
        )
    return -(-size // devices) * devices


def _compile_forward(reference: Callable) -> Callable:
    def run(x: Any) -> Any:
        return ops.cast(reference()(x, training=False), "float32")

    return backend.compile_split(run, reference, split=1)


def _compile_gradient(reference: Callable) -> Callable:
    def run(x: Any, labels: Any) -> Any:
        logits_of = stateless_logits(reference())
        loss = CrossEntropy(reference(), labels)

        def total_loss(images: Any) -> Any:
            return loss.values_and_total(logits_of(images))[1]

        with cut_gradients_are_zero():
            return ops.cast(backend.gradient(total_loss, x), "float32")

    return backend.compile_split(run, reference, split=2)


def _compile_attack(attack: Attack, reference: Callable) -> Callable:
    def run(x: Any, labels: Any, ids: Any, seed: Any, stage: Any) -> Any:
        network = reference()
        sample_seed: Any = SampleSeed(seed, ids)
        with cut_gradients_are_zero():
            if isinstance(attack, StagedAttack):
                return attack.perturb_stage(
                    network, x, labels, sample_seed, stage
                )
            if getattr(type(attack), "run", None) is not PGD.run:
                # Others draw with `keras.random`, for the batch as a whole.
                # The first sample tells one batch from another.
                sample_seed = CounterSeed(seed, ids[0])
            return attack.perturb(network, x, labels, sample_seed)

    return backend.compile_split(run, reference, split=3)

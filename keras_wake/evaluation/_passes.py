"""Forward passes and attacks on arrays of any length, in compiled batches.

What is compiled once serves all batches, although ever fewer samples stand:
where sizes are compiled in (XLA), the last batch is padded to a power of two.
"""

import functools
import math
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.attacks import StagedAttack
from keras_wake.attacks.apgd_losses import CrossEntropy
from keras_wake.attacks.logits import stateless_logits
from keras_wake.backend._common import cut_gradients_are_zero
from keras_wake.backend.compile_cache import forget_compiled
from keras_wake.backend.compile_cache import PerModel
from keras_wake.utils.seeds import as_int32
from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.seeds import SampleSeed

# Smaller batches take no less time.
SMALLEST_BATCH = 8
# In how many passes a random classifier must mostly be right.
VOTES = 20
# Two passes of one network differ by rounding alone up to this share of the
# largest logit; the same kernels in the same order, that is.
_ROUNDING = 1e-4

_FORWARD = PerModel()
_GRADIENTS = PerModel()


class Passes:
    """A classifier, as far as an evaluation uses it.

    Args:
        classifier: A checked classifier.
        batch_size: Most images of a batch.
        random: Whether two passes over the same images differ. Then nothing
            is compiled that would draw the same numbers each time, and an
            image counts as right where more than half of `VOTES` passes are:
            one that a pass in ten gets wrong would fall sooner or later, were
            every attack judged by a single one.
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
        """How many forward passes it takes to say what is right."""
        return VOTES if self.random else 1

    def forget_changed(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Has all compiled anew if the classifier is not what it was.

        Compares logits and gradients of what an earlier evaluation has compiled
        with those of a new compilation, so that no setting of a layer has to
        tell of the change. Both draw the same random numbers.

        Args:
            images: Float32 array (n, ...), of which the first ones are used.
            labels: Float32 array (n, K), one-hot.
        """
        kept = _GRADIENTS.find(self.classifier)
        new = _compile_gradients(weakref.ref(self.classifier))
        # The same size each time: another one would be compiled now.
        devices = backend.device_count(self.classifier)
        size = -(-SMALLEST_BATCH // devices) * devices
        rows = np.arange(size) % len(images)
        arrays = [
            ops.convert_to_tensor(each[rows]) for each in (images, labels)
        ]
        outputs = ops.convert_to_numpy(new(*arrays))
        if kept is not None:
            before = ops.convert_to_numpy(kept(*arrays))
            logits = slice(labels.shape[1])
            gradients = slice(labels.shape[1], None)
            if any(
                differ(before[:, part], outputs[:, part])
                for part in (logits, gradients)
            ):
                forget_compiled(self.classifier)
        _GRADIENTS.put(self.classifier, new)

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

    def right(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Which images are classified rightly, bool (n,).

        Args:
            images: Float32 array (n, ...).
            classes: Int64 array (n,), the true ones.
        """
        votes = np.zeros(len(images), int)
        for _ in range(self.votes):
            logits = self.logits(images)
            # With a NaN among the logits no class is predicted.
            votes += (np.argmax(logits, axis=1) == classes) & ~np.isnan(
                logits
            ).any(axis=1)
        return 2 * votes > self.votes

    def logits_and_gradients(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, K) and the cross-entropy's gradients, like the images."""
        run = self._compiled(_GRADIENTS, _compile_gradients)
        found = np.concatenate(
            [
                self._run(run, [images[part], labels[part]])
                for part in self.batches(len(images))
            ]
        )
        logits, gradients = np.split(found, [labels.shape[1]], axis=1)
        return logits, gradients.reshape(images.shape)

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
            as_int32(seed),
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


def differ(
    outputs: np.ndarray, again: np.ndarray, rounding: float = _ROUNDING
) -> bool:
    """Whether two passes over the same images differ by more than rounding.

    Args:
        outputs: Float array (n, ...) of a pass.
        again: The same of a second pass.
        rounding: What is rounding, as a share of the largest number.
    """
    finite = np.abs(outputs[np.isfinite(outputs)])
    size = float(finite.max(initial=0.0))
    return not np.allclose(
        outputs, again, rtol=0, atol=rounding * size, equal_nan=True
    )


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


def _compile_gradients(reference: Callable) -> Callable:
    def run(x: Any, labels: Any) -> Any:
        logits_of = stateless_logits(reference())
        loss = CrossEntropy(reference(), labels)

        def total_loss(images: Any) -> tuple[Any, Any]:
            logits = logits_of(images)
            return loss.values_and_total(logits)[1], logits

        with cut_gradients_are_zero():
            found = backend.gradient_and_outputs(total_loss, x)
        # One tensor, whose rows are cut to the number of images.
        flat = ops.reshape(found[0], (-1, math.prod(x.shape[1:])))
        return ops.concatenate(
            [ops.cast(part, "float32") for part in (found[1], flat)], axis=1
        )

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

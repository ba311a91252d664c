"""Forward passes and attacks on arrays of any length, in compiled batches.

Batches get smaller as samples are broken, and XLA compiles again for each size
of a batch. So with XLA, a batch that is not full is padded to a power of two:
then few sizes occur.
"""

import math
import weakref
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks.apgd_losses import CrossEntropy
from keras_wake.attacks.logits import stateless_logits
from keras_wake.backend._common import cut_gradients_are_zero
from keras_wake.evaluation.samples import Samples
from keras_wake.utils import validate
from keras_wake.utils.seeds import as_int32
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor

# Smaller batches take no less time.
SMALLEST_BATCH = 8
# A classifier with random outputs must be right in most of so many passes.
VOTES = 20
# A difference between two passes up to this share of the largest logit counts
# as rounding. (Both passes run the same kernels in the same order.)
_ROUNDING = 1e-4
# What the rounding of x + δ may add to a radius or to a bound, in images
# whose pixels are at most 1.
TOLERANCE = 1e-6


class CompiledClassifier:
    """A classifier, as an evaluation uses it.

    What is compiled stays with this object, and takes no notice of a later
    change of a layer: an evaluation makes one of its own, a callback one for
    each `fit`.

    Args:
        classifier: A checked classifier.
        batch_size: Most images of a batch.
    """

    def __init__(self, classifier: keras.Model, batch_size: int) -> None:
        self.classifier = classifier
        self.batch_size = validate.integer(1, batch_size=batch_size)
        # Whether two passes over the same images differ.
        self.random = False
        self._compiled: dict[str | int, Callable] = {}

    @property
    def votes(self) -> int:
        """How many forward passes it takes to say what is right.

        With random outputs, an image that one pass in ten gets wrong would
        fall sooner or later, if a single pass judged every attack.
        """
        return VOTES if self.random else 1

    def probe(self, images: Array) -> tuple[Array, Array]:
        """Computes the logits twice; sets `random` if they differ."""
        outputs, again = self.eager_logits(images), self.eager_logits(images)
        self.random = differ(outputs, again)
        return outputs, again

    def batches(self, count: int) -> Iterator[slice]:
        """The slices that cut so many samples into batches."""
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    def logits(self, images: Array) -> Array:
        """Float32 logits (n, K) of a pass in inference mode."""
        if self.random:
            # Compiled, each pass would draw the same numbers.
            return self.eager_logits(images)
        run = self._kept("logits", self._logits, split=1)
        return self._run_all(run, images)

    def eager_logits(self, images: Array) -> Array:
        """The logits of a pass that draws new random numbers."""
        parts = []
        for part in self.batches(len(images)):
            tensor = ops.convert_to_tensor(images[part], "float32")
            logits = self.classifier(tensor, training=False)
            parts.append(ops.convert_to_numpy(ops.cast(logits, "float32")))
        return np.concatenate(parts)

    def right(self, images: Array, classes: Array) -> Array:
        """Which images are classified rightly, bool (n,).

        Args:
            images: Float32 array (n, ...).
            classes: Int64 array (n,), the true ones.
        """
        votes = np.zeros(len(images), int)
        for _ in range(self.votes):
            logits = self.logits(images)
            # With a NaN among the logits no class is predicted.
            answered = ~np.isnan(logits).any(axis=1)
            votes += (np.argmax(logits, axis=1) == classes) & answered
        return 2 * votes > self.votes

    def logits_and_gradients(
        self, images: Array, labels: Array
    ) -> tuple[Array, Array]:
        """Logits (n, K) and the cross-entropy's gradients, like the images."""
        run = self._kept("gradients", self._gradients, split=2)
        found = self._run_all(run, images, labels)
        logits, gradients = np.split(found, [labels.shape[1]], axis=1)
        return logits, gradients.reshape(images.shape)

    def attacked(
        self,
        attack: Attack,
        samples: Samples,
        rows: Array,
        seed: int,
        stage: int,
    ) -> tuple[Array, Array, Array]:
        """A stage of an attack on a batch of samples, and what came of it.

        Args:
            attack: The attack.
            samples: All samples.
            rows: Numbers of the samples of the batch, at most `batch_size`.
            seed: Integer seed of the random numbers.
            stage: Number of the stage, from 0.

        Returns:
            The images, which of them are misclassified, and which are within
            the threat model: float32 (n, ...), bool (n,), bool (n,).
        """
        images = samples.images[rows]
        found = self.attack(
            attack, images, samples.labels[rows], samples.ids[rows], seed, stage
        )
        # The evaluation looks for itself; it does not ask the attack.
        wrong = ~self.right(found, samples.classes[rows])
        return found, wrong, inside(attack, images, found)

    def attack(
        self,
        attack: Attack,
        images: Array,
        labels: Array,
        ids: Array,
        seed: int,
        stage: int = 0,
    ) -> Array:
        """Adversarial images of one batch; the arguments as in `Samples`."""
        reference = weakref.ref(self.classifier)

        def perturbed(
            x: Tensor, labels: Tensor, ids: Tensor, seed: Tensor, stage: Tensor
        ) -> Tensor:
            sample_seed = SampleSeed(seed, ids)
            with cut_gradients_are_zero():
                return attack.perturb_stage(
                    reference(), x, labels, sample_seed, stage
                )

        run = self._kept(id(attack), perturbed, split=3)
        scalars = (as_int32(seed), ops.convert_to_tensor(stage, "int32"))
        found = self._run(run, [images, labels, ids], scalars)
        if found.shape != images.shape:
            raise ValueError(
                "An attack must return one perturbation for each image. "
                f"Received: shape {found.shape} for images of shape "
                f"{images.shape}, from {attack!r}."
            )
        return found

    def _kept(self, key: str | int, function: Callable, split: int) -> Callable:
        """The compiled function of that key; compiles `function` for it."""
        if key not in self._compiled:
            self._compiled[key] = backend.compile_split(
                function, weakref.ref(self.classifier), split
            )
        return self._compiled[key]

    def _run_all(self, run: Callable, *arrays: Array) -> Array:
        """The rows that `run` makes of the rows of arrays, batch by batch."""
        parts = self.batches(len(arrays[0]))
        return np.concatenate(
            [self._run(run, [each[part] for each in arrays]) for part in parts]
        )

    def _run(
        self,
        run: Callable,
        arrays: list[Array],
        scalars: tuple[Tensor, ...] = (),
    ) -> Array:
        """The same for arrays of one batch."""
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

    def _logits(self, x: Tensor) -> Tensor:
        return ops.cast(self.classifier(x, training=False), "float32")

    def _gradients(self, x: Tensor, labels: Tensor) -> Tensor:
        logits_of = stateless_logits(self.classifier)
        loss = CrossEntropy(self.classifier, labels)

        def total_loss(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_of(images)
            return loss.values_and_total(logits)[1], logits

        with cut_gradients_are_zero():
            gradient, logits = backend.gradient_and_outputs(total_loss, x)
        # One tensor, whose rows are cut to the number of images.
        flat = ops.reshape(gradient, (-1, math.prod(x.shape[1:])))
        return ops.concatenate(
            [ops.cast(part, "float32") for part in (logits, flat)], axis=1
        )


def inside(attack: Attack, images: Array, adversarial: Array) -> Array:
    """Which adversarial images are within the threat model, bool (n,).

    NumPy computes it in float64, without the projection of the attack.
    """
    axes = tuple(range(1, images.ndim))
    delta = adversarial.astype("float64") - images
    if attack.norm == "linf":
        sizes = np.abs(delta).max(axis=axes)
    else:
        sizes = np.sqrt(np.square(delta).sum(axis=axes))
    low, high = attack.bounds
    # The rounding of x + δ grows with the pixels.
    tolerance = TOLERANCE * max(1.0, attack.epsilon, abs(low), abs(high))
    return (
        (sizes <= attack.epsilon + tolerance)
        & (adversarial.min(axis=axes) >= low - tolerance)
        & (adversarial.max(axis=axes) <= high + tolerance)
    )


def differ(outputs: Array, again: Array, rounding: float = _ROUNDING) -> bool:
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

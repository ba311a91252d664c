"""What an evaluation works on: the samples, and the classifier in batches.

A sample is identified by the digest of its image and class. Attacks take the
samples in the order of their digests, and make their random numbers from the
digests: shuffled data give the same batches with the same random numbers.

Batches get smaller as samples are broken, and XLA compiles again for each size
of a batch. So with XLA, a batch that is not full is padded to a power of two:
then few sizes occur.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks.logits import CrossEntropy
from keras_wake.attacks.logits import stateless_logits
from keras_wake.data.batches import iterate_checked
from keras_wake.data.classifier import image_shape
from keras_wake.data.sharding import whole_batches
from keras_wake.utils import validate
from keras_wake.utils.seeds import as_int32
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor

# Keeps the random numbers of two attacks of a list apart.
_SPREAD = 7919
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


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """All images and labels on the host, sorted by their digests.

    Attributes:
        images: Float32 array (n, ...).
        labels: Float32 array (n, K), one-hot: of soft labels the largest.
        classes: Int64 array (n,).
        ids: Int32 array (n,) of what random numbers are made from.
        places: Int64 array (n,), where in the data each sample stood.
        digest: That of all of them, whatever their order in the data.
        positions: Int64 array (n,), the place of each in the order of digests
            of all samples.
    """

    images: Array
    labels: Array
    classes: Array
    ids: Array
    places: Array
    digest: str
    positions: Array

    def shard(self, index: int, count: int) -> "Samples":
        """Every `count`-th sample from `index` on; the digest is of all."""
        if count > len(self.images):
            raise ValueError(
                "There must be at least one image for each share. Received: "
                f"shard={(index, count)} and {len(self.images)} image(s)."
            )
        # As indices, which make copies: the rest can be freed.
        rows = np.arange(index, len(self.images), count)
        parts = {
            name: value[rows]
            for name, value in vars(self).items()
            if name != "digest"
        }
        return Samples(**parts, digest=self.digest)

    def in_order_of_data(self, values: Array) -> Array:
        """One value for each sample, brought to the order of the data."""
        return values[np.argsort(self.places)]


def collect(
    classifier: keras.Model,
    data: Dataset,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int,
) -> Samples:
    """Reads, checks and sorts the data of a checked classifier."""
    images, classes, digests = [], [], []
    shape = image_shape(classifier)
    data = whole_batches(data)
    for x, labels in iterate_checked(
        data, num_classes, bounds, batch_size, shape
    ):
        images += list(ops.convert_to_numpy(x))
        classes += ops.convert_to_numpy(ops.argmax(labels, axis=1)).tolist()
    for image, label in zip(images, classes, strict=True):
        salt, content = label.to_bytes(8, "little"), image.tobytes()
        found = hashlib.blake2b(content, digest_size=16, salt=salt)
        digests.append(found.digest())
    places = np.array(sorted(range(len(digests)), key=digests.__getitem__))
    digests.sort()
    starts = np.frombuffer(b"".join(d[:4] for d in digests), "<u4")
    sorted_classes = np.array(classes, "int64")[places]
    return Samples(
        images=np.stack([images[place] for place in places]),
        labels=np.eye(num_classes, dtype="float32")[sorted_classes],
        classes=sorted_classes,
        # An int32 tensor has no room for the highest bit.
        ids=(starts & 0x7FFFFFFF).astype("int32"),
        places=places,
        digest=hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest(),
        positions=np.arange(len(digests)),
    )


class CompiledClassifier:
    """A classifier, as an evaluation uses it.

    What is compiled stays with this object, and takes no notice of a later
    change of a layer: an evaluation makes one of its own, a callback one for
    each `fit`.

    Args:
        model: The classifier.
        batch_size: Most images of a batch.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self.model = model
        self.batch_size = validate.integer(1, batch_size=batch_size)
        # Whether two passes over the same images differ.
        self.has_random_outputs = False
        self._compiled: dict[str | int, Callable] = {}

    @property
    def votes(self) -> int:
        """How many passes judge an image; one alone may be wrong by chance."""
        return VOTES if self.has_random_outputs else 1

    def batches(self, count: int) -> Iterator[slice]:
        """The slices that cut so many samples into batches."""
        for start in range(0, count, self.batch_size):
            yield slice(start, start + self.batch_size)

    def probe(self, images: Array) -> tuple[Array, Array]:
        """The logits twice; sets `has_random_outputs` if they differ."""
        outputs = self._logits_of(images, eagerly=True)
        again = self._logits_of(images, eagerly=True)
        self.has_random_outputs = differ(outputs, again)
        return outputs, again

    def are_correct(self, images: Array, classes: Array) -> Array:
        """Which of the images (n, ...) are classified correctly, bool (n,).

        By the majority of `votes` passes.
        """
        votes = np.zeros(len(images), int)
        for _ in range(self.votes):
            # Compiled, each pass would draw the same random numbers.
            logits = self._logits_of(images, eagerly=self.has_random_outputs)
            # With a NaN among the logits no class is predicted.
            answered = ~np.isnan(logits).any(axis=1)
            votes += (np.argmax(logits, axis=1) == classes) & answered
        return 2 * votes > self.votes

    def first_correct(self, samples: Samples, count: int) -> Array:
        """The rows of the first `count` samples that are correct."""
        found: list[int] = []
        for part in self.batches(len(samples.images)):
            right = self.are_correct(
                samples.images[part], samples.classes[part]
            )
            found.extend(part.start + np.flatnonzero(right))
            if len(found) >= count:
                break
        return np.array(found[:count], "int64")

    def _logits_of(self, images: Array, eagerly: bool) -> Array:
        """Float32 logits (n, K) of a pass in inference mode."""

        def logits(x: Tensor) -> Tensor:
            return ops.cast(self.model(x, training=False), "float32")

        parts = []
        for part in self.batches(len(images)):
            if eagerly:
                with _memory_error_says_what_to_lower():
                    found = logits(ops.convert_to_tensor(images[part]))
                    parts.append(ops.convert_to_numpy(found))
            else:
                parts.append(self._run("logits", logits, [images[part]]))
        return np.concatenate(parts)

    def logits_and_gradients(self, images: Array, labels: Array) -> list[Array]:
        """Logits of a batch, and the gradients of the cross-entropy."""
        logits_of = stateless_logits(self.model)
        loss = CrossEntropy(self.model, ops.convert_to_tensor(labels))

        def total_loss(x: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_of(x)
            return loss.values_and_total(logits)[1], logits

        with backend.cut_gradients_are_zero():
            gradients, logits = backend.gradient_and_outputs(
                total_loss, ops.convert_to_tensor(images)
            )
        return [
            ops.convert_to_numpy(ops.cast(each, "float32"))
            for each in (logits, gradients)
        ]

    def attack_and_judge(
        self,
        attack: Attack,
        number: int,
        stage: int,
        samples: Samples,
        rows: Array,
        seed: int,
    ) -> tuple[Array, Array, Array]:
        """A stage of an attack on some samples, and what came of it.

        Returns:
            The images, which of them are misclassified, and which are within
            the threat model: float32 (n, ...), bool (n,), bool (n,).
        """
        images = samples.images[rows]
        found = self.attack(
            attack,
            images,
            samples.labels[rows],
            samples.ids[rows],
            seed + _SPREAD * number,
            stage,
        )
        # The evaluation looks for itself; it does not ask the attack.
        wrong = ~self.are_correct(found, samples.classes[rows])
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

        def perturbed(*tensors: Tensor) -> Tensor:
            x, labels, ids, seed, stage = tensors
            sample_seed = SampleSeed(seed, ids)
            with backend.cut_gradients_are_zero():
                return attack.perturb_stage(
                    self.model, x, labels, sample_seed, stage
                )

        found = self._run(
            id(attack),
            perturbed,
            [images, labels, ids],
            as_int32(seed),
            ops.convert_to_tensor(stage, "int32"),
        )
        if found.shape != images.shape:
            raise ValueError(
                "An attack must return one perturbation for each image. "
                f"Received: shape {found.shape} for images of shape "
                f"{images.shape}, from {attack!r}."
            )
        return found

    def _run(
        self,
        key: str | int,
        function: Callable,
        arrays: list[Array],
        *scalars: Tensor,
    ) -> Array:
        """What a function makes of the arrays of one batch, and scalars.

        It is compiled at the first call, and kept under the key.
        """
        if key not in self._compiled:
            self._compiled[key] = backend.compile_split(
                function, lambda: self.model, len(arrays)
            )
        size = count = len(arrays[0])
        if backend.jit_by_default():
            power = 2 ** (count - 1).bit_length()
            size = min(self.batch_size, max(SMALLEST_BATCH, power))
        devices = backend.device_count(self.model)
        size = math.ceil(size / devices) * devices
        # Repeated, as an image of zeros could be out of bounds.
        rows = np.arange(size) % count
        tensors = [
            ops.convert_to_tensor(array if size == count else array[rows])
            for array in arrays
        ]
        with _memory_error_says_what_to_lower():
            result = ops.convert_to_numpy(
                self._compiled[key](*tensors, *scalars)
            )
        return np.array(result[:count])


def _memory_error_says_what_to_lower() -> AbstractContextManager:
    return backend.memory_error_says(
        "a batch of the evaluation", "Lower `batch_size`."
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
    """Whether two passes differ by more than this share of the largest."""
    finite = np.abs(outputs[np.isfinite(outputs)])
    size = float(finite.max(initial=0.0))
    return not np.allclose(
        outputs, again, rtol=0, atol=rounding * size, equal_nan=True
    )

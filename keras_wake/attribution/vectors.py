"""Attribution vectors of samples and of classes, in one pass over the data.

What every analysis has in common: attack a batch, take the features that go
into the head, weigh them with the head's weights of the true class.
"""

import weakref
from collections.abc import Callable
from collections.abc import Iterator
from functools import partial
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks import ThreatModel
from keras_wake.attribution.head import find_head
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features
from keras_wake.backend.compile_cache import PerModel
from keras_wake.data.batches import iterate_checked
from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import image_shape
from keras_wake.utils import validate

# By classifier and then by head: a network may be analysed at several heads,
# and several networks may share one.
_COMPILED = PerModel()
# Scaled images of any usual kind are below it; pixel values from 0 to 255 are
# not, unless a whole batch is black.
_LARGEST_SCALED = 32


class Sizes(NamedTuple):
    """K and n of a classifier."""

    classes: int
    features: int


class Batch(NamedTuple):
    """What is known of a batch; the images are tensors, the rest arrays.

    Attributes:
        images: (batch, ...), clean.
        adversarial: (batch, ...); `images` where there is no attack.
        labels: (batch,), class numbers.
        clean_predictions: (batch,), class numbers, or None if not asked for.
        predictions: (batch,), of the adversarial images.
        logits: Float32 (batch, K), of the adversarial images.
        vectors: Float32 (batch, n), A(x) of the adversarial images.
    """

    images: Any
    adversarial: Any
    labels: np.ndarray
    clean_predictions: np.ndarray | None
    predictions: np.ndarray
    logits: np.ndarray
    vectors: np.ndarray


def analyse(
    classifier: Any,
    data: Any,
    attack: Any,
    head: Any,
    batch_size: int,
    seed: int,
    clean: bool = False,
    bounds: tuple[float, float] | None = None,
) -> tuple[Sizes, Iterator[Batch]]:
    """Checks the arguments and starts a pass over the data.

    Args:
        classifier: Built `keras.Model`, images to logits.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: What makes the adversarial images; None for clean images.
        head: Name of the Dense layer or the layer; None to find it.
        batch_size: How arrays are cut.
        seed: Integer seed of the attack's random starts.
        clean: Whether the clean images are classified, too. Defaults to
            `False`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        K and n, and the batches, each of which is attacked when it is asked
        for.
    """
    num_classes = check_classifier(classifier)
    head = find_head(classifier, head, num_classes)
    if not isinstance(attack, (Attack, type(None))):
        raise TypeError(
            "`attack` must be an attack such as `keras_wake.attacks.PGD()`, "
            f"or None for clean images. Received: attack={attack!r}."
        )
    batch_size = validate.integer(1, batch_size=batch_size)
    seed = validate.seed(seed=seed)
    limits, bounds_unknown = _bounds(bounds, attack)
    by_head = _COMPILED.get(classifier, lambda _: PerModel())
    compiled = by_head.get(head, partial(_compile, weakref.ref(classifier)))
    shape = image_shape(classifier)
    checked = iterate_checked(data, num_classes, limits, batch_size, shape)

    def batches() -> Iterator[Batch]:
        for number, (x, labels) in enumerate(checked):
            if bounds_unknown:
                _refuse_unscaled_images(x)
            adversarial = x
            if attack is not None:
                start = (seed + 7919 * number) % 2**32
                adversarial = attack(classifier, x, labels, seed=start)
            found = compiled(adversarial, labels)
            classes, predictions, logits, vectors = map(
                ops.convert_to_numpy, found
            )
            before = None
            if clean:
                before = predictions
                if attack is not None:
                    before = ops.convert_to_numpy(compiled(x, labels)[1])
            yield Batch(
                x, adversarial, classes, before, predictions, logits, vectors
            )

    return Sizes(num_classes, head_features(head)), batches()


def _bounds(bounds: Any, attack: Any) -> tuple[tuple[float, float], bool]:
    """Bounds of the images, and whether they are unknown."""
    if bounds is None:
        if attack is not None:
            return attack.bounds, False
        return (-np.inf, np.inf), True
    checked = ThreatModel("linf", None, bounds).bounds
    if attack is not None and attack.bounds != checked:
        raise ValueError(
            "`bounds` must be those of the attack. Received: "
            f"bounds={bounds!r} and an attack with {attack.bounds}."
        )
    return checked, False


def _refuse_unscaled_images(x: Any) -> None:
    """Refuses images in [0, 255].

    The classifier was probably trained on images in [0, 1].
    """
    low, high = float(ops.min(x)), float(ops.max(x))
    if low >= 0 and high > _LARGEST_SCALED:
        raise ValueError(
            f"The images have values from {low:g} to {high:g}, which look "
            "like pixel values from 0 to 255. Divide them by 255, as the "
            "classifier was trained on images in [0, 1]; for one that takes "
            "them as they are, pass `bounds=(0, 255)`."
        )


def _compile(classifier: Callable, head: Callable) -> Callable:
    """Compiles the analysis of a batch; the arguments are weak references."""

    def analysis(x: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
        logits, features = logits_and_features(classifier(), head(), x)
        classes = ops.argmax(labels, axis=-1)
        weights = ops.take(ops.transpose(head_weights(head())), classes, axis=0)
        vectors = ops.cast(features, "float32") * ops.cast(weights, "float32")
        logits = ops.cast(logits, "float32")
        return classes, ops.argmax(logits, axis=-1), logits, vectors

    return backend.compile(analysis, classifier)


class ClassMeans:
    """Mean vector of every class, batch by batch, in float64."""

    def __init__(self, sizes: Sizes) -> None:
        self.sums = np.zeros(sizes)
        self.counts = np.zeros(sizes.classes, "int64")

    def add(self, batch: Batch) -> None:
        """Adds the vectors of a batch."""
        for label in np.unique(batch.labels):
            # Not a product with one-hot labels, by which a vector that is
            # not finite would reach all classes.
            members = batch.vectors[batch.labels == label]
            self.sums[label] += members.sum(axis=0, dtype="float64")
            self.counts[label] += len(members)

    def result(self) -> np.ndarray:
        """Float64 array (K, n); NaN for a class without samples."""
        counts = np.where(self.counts == 0, np.nan, self.counts)
        return self.sums / counts[:, None]


def attribution_vectors(
    classifier: Any,
    data: Any,
    attack: Any = None,
    head: Any = None,
    batch_size: int = 128,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> np.ndarray:
    """Mean attribution vector of every class.

    A(x) = g(x + δ) ⊙ W[y], averaged over all samples of class y, whether the
    classifier gets them right or not. The bias takes no part.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches:
            images (batch, ...) within the attack's bounds, labels as class
            numbers or one-hot.
        attack: What makes δ. Defaults to `None`: δ = 0, clean images.
        head: Name of the Dense layer or the layer, where it cannot be found.
        batch_size: How arrays are cut. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        Float64 array (K, n). A class without samples gives a row of NaN.

    Raises:
        TypeError, ValueError: For a classifier without a head that can be
            found, or data that cannot be right.

    Example:

    ```python
    vectors = keras_wake.attribution.attribution_vectors(
        classifier, (x, y), attack=keras_wake.attacks.PGD(steps=20)
    )
    ```
    """
    sizes, batches = analyse(
        classifier, data, attack, head, batch_size, seed, bounds=bounds
    )
    means = ClassMeans(sizes)
    for batch in batches:
        means.add(batch)
    return means.result()


def instance_vectors(
    classifier: Any,
    data: Any,
    attack: Any = None,
    head: Any = None,
    batch_size: int = 128,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Attribution vector of every sample.

    A(x) = g(x + δ) ⊙ W[y] for the true class y of each sample, in the order
    of the data. They take 4·N·n bytes, and as much again while they are put
    together: 20 MB twice for 10,000 samples of 512 features.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: What makes δ. Defaults to `None`: δ = 0, clean images.
        head: Name of the Dense layer or the layer, where it cannot be found.
        batch_size: How arrays are cut. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        Float32 array (N, n), the vectors, and int64 array (N,), the classes.

    Raises:
        TypeError, ValueError: As `attribution_vectors`.

    Example:

    ```python
    vectors, labels = keras_wake.attribution.instance_vectors(
        classifier, (x_test, y_test), attack=keras_wake.attacks.PGD(steps=20)
    )
    ```
    """
    _, batches = analyse(
        classifier, data, attack, head, batch_size, seed, bounds=bounds
    )
    parts = [(batch.vectors, batch.labels) for batch in batches]
    vectors = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    return vectors, labels.astype("int64")

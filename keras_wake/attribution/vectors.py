"""Attribution vectors of samples and of classes, in one pass over the data.

All analyses attack a batch, take the features that go into the head, and
multiply them with the head's weights of the true class.
"""

import weakref
from collections.abc import Callable
from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.attacks import Attack
from keras_wake.attacks import ThreatModel
from keras_wake.attribution.batches import Batch
from keras_wake.attribution.batches import shared_batches
from keras_wake.attribution.head import find_head
from keras_wake.attribution.head import head_features
from keras_wake.attribution.head import head_weights
from keras_wake.attribution.head import logits_and_features
from keras_wake.backend.layer_settings import PerModel
from keras_wake.data.batches import iterate_checked
from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import image_shape
from keras_wake.data.sharding import whole_batches
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor

# By classifier and then by head: a network may be analysed at several heads,
# and several networks may share a head.
_COMPILED = PerModel()
# Scaled images are below it. Images in [0, 255] are above it in every batch,
# unless all of them are black.
_LARGEST_SCALED = 32

Bounds = tuple[float, float]


class ClassMeans:
    """Mean vector of every class, batch by batch, in float64."""

    def __init__(self, classes: int, features: int) -> None:
        self.sums = np.zeros((classes, features))
        self.counts = np.zeros(classes, "int64")

    def add(self, batch: Batch) -> None:
        """Adds the vectors of a batch."""
        for label in np.unique(batch.labels):
            # Not a product with one-hot labels, by which a vector that is
            # not finite would reach all classes.
            members = batch.vectors[batch.labels == label]
            self.sums[label] += members.sum(axis=0, dtype="float64")
            self.counts[label] += len(members)

    def result(self) -> Array:
        """Float64 array (K, n); NaN for a class without samples."""
        counts = np.where(self.counts == 0, np.nan, self.counts)
        return self.sums / counts[:, None]


def analyse(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack | None,
    head: str | keras.layers.Layer | None,
    batch_size: int,
    seed: int,
    bounds: Bounds | None,
    clean: bool = False,
) -> tuple[ClassMeans, Iterator[Batch]]:
    """Checks the arguments of an analysis and starts its pass over the data.

    With `clean`, the clean images are classified as well. The other arguments
    are those of `attribution_vectors`. Returns class means for the batches,
    which are attacked when they are asked for.
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
    limits = (-np.inf, np.inf) if attack is None else attack.bounds
    if bounds is not None:
        limits = ThreatModel("linf", None, bounds).bounds
        if attack is not None and attack.bounds != limits:
            raise ValueError(
                "`bounds` must be those of the attack. Received: "
                f"bounds={bounds!r} and an attack with {attack.bounds}."
            )
    by_head = _COMPILED.get(classifier, lambda _: PerModel())
    compiled = by_head.get(head, partial(_compile, weakref.ref(classifier)))
    shape = image_shape(classifier)
    data = whole_batches(data)
    checked = iterate_checked(data, num_classes, limits, batch_size, shape)

    def analysed(number: int, x: Tensor, labels: Tensor) -> Batch:
        if np.isinf(limits[1]):
            _refuse_unscaled_images(x)
        seen = x
        if attack is not None:
            start = (seed + 7919 * number) % 2**32
            seen = attack(classifier, x, labels, seed=start)
        classes, logits, vectors = map(
            ops.convert_to_numpy, compiled(seen, labels)
        )
        before = logits
        if clean and attack is not None:
            before = ops.convert_to_numpy(compiled(x, labels)[1])
        return Batch(x, seen, classes, before, logits, vectors)

    batches = shared_batches(classifier, checked, analysed)
    return ClassMeans(num_classes, head_features(head)), batches


def _refuse_unscaled_images(x: Tensor) -> None:
    """Refuses images in [0, 255], which few classifiers are trained on."""
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

    def analysis(x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        logits, features = logits_and_features(classifier(), head(), x)
        classes = ops.argmax(labels, axis=-1)
        weights = ops.take(ops.transpose(head_weights(head())), classes, axis=0)
        vectors = ops.cast(features, "float32") * ops.cast(weights, "float32")
        return classes, ops.cast(logits, "float32"), vectors

    return backend.compile(analysis, classifier)


def attribution_vectors(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack | None = None,
    head: str | keras.layers.Layer | None = None,
    batch_size: int = 128,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Array:
    """Mean attribution vector of every class.

    A(x) = g(x + δ) ⊙ W[y], averaged over all samples of class y, whether the
    classifier gets them right or not. The bias of the head is not used.

    Several processes (those of `MultiWorkerMirroredStrategy`,
    `keras.distribution.initialize` or `torch.distributed`) share the batches,
    and all return what one process would. All of them must make this call,
    with all of the data. Where their weights differ, as by moving statistics
    of batch norm, the first one analyses its own for all.

    Args:
        classifier: Built `keras.Model`: images to logits, by a Dense layer.
        data: Pair of arrays (x, y), or anything that yields such batches:
            images (batch, ...) within the attack's bounds, labels as class
            numbers or one-hot.
        attack: The attack that makes δ. Defaults to `None`: clean images.
        head: That Dense layer or its name. Defaults to `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        Float64 array (K, n). A class without samples gives a row of NaN.

    Raises:
        TypeError, ValueError: If there is no head, or if data are wrong.

    Example:

    ```python
    attack = kw.attacks.PGD(steps=20)
    vectors = kw.attribution.attribution_vectors(classifier, (x, y), attack)
    ```
    """
    means, batches = analyse(
        classifier, data, attack, head, batch_size, seed, bounds
    )
    for batch in batches:
        means.add(batch)
    return means.result()


def instance_vectors(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack | None = None,
    head: str | keras.layers.Layer | None = None,
    batch_size: int = 128,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> tuple[Array, Array]:
    """Attribution vector of every sample.

    A(x) = g(x + δ) ⊙ W[y] for the true class y of each sample, in the order
    of the data. They take 8·N·n bytes at most: 40 MB for 10,000 samples of 512
    features.

    Args:
        classifier: Built `keras.Model`, as in `attribution_vectors`.
        data: As in `attribution_vectors`.
        attack: The attack that makes δ. Defaults to `None`: clean images.
        head: The head or its name. Defaults to `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack. Defaults to `0`.
        bounds: As in `attribution_vectors`. Defaults to `None`.

    Returns:
        Float32 array (N, n), the vectors, and int64 array (N,), the classes.

    Raises:
        TypeError, ValueError: As `attribution_vectors`.

    Example:

    ```python
    vectors, labels = kw.attribution.instance_vectors(classifier, (x, y))
    ```
    """
    _, batches = analyse(
        classifier, data, attack, head, batch_size, seed, bounds
    )
    parts = [(batch.vectors, batch.labels) for batch in batches]
    vectors, labels = map(np.concatenate, zip(*parts, strict=True))
    return vectors, labels.astype("int64")

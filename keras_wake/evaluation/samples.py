"""The images of an evaluation, in an order of their own.

A sample is identified by the digest of its image and class. Attacks take the
samples in the order of their digests, and make their random numbers from the
digests: shuffled data give the same batches with the same random numbers.
"""

import dataclasses
import hashlib

import keras
import numpy as np
from keras import ops

from keras_wake.data.batches import iterate_checked
from keras_wake.data.classifier import image_shape
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset

# Keeps the random numbers of two attacks of a list apart.
_SPREAD = 7919


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
    """

    images: Array
    labels: Array
    classes: Array
    ids: Array
    places: Array
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    def in_order_of_data(self, values: Array) -> Array:
        """One value for each sample, brought to the order of the data."""
        result = np.empty_like(values)
        result[self.places] = values
        return result


def collect(
    classifier: keras.Model,
    data: Dataset,
    num_classes: int,
    bounds: tuple[float, float],
    batch_size: int,
) -> Samples:
    """Reads, checks and sorts the data.

    Args:
        classifier: A checked classifier.
        data: Pair of arrays (x, y), or anything that yields such batches.
        num_classes: K.
        bounds: Smallest and largest pixel value.
        batch_size: How arrays are cut.

    Raises:
        TypeError, ValueError: For data that cannot be right.
    """
    images, classes = [], []
    shape = image_shape(classifier)
    for x, labels in iterate_checked(
        data, num_classes, bounds, batch_size, shape
    ):
        images.append(ops.convert_to_numpy(x))
        classes.append(np.argmax(ops.convert_to_numpy(labels), axis=1))
    shapes = {batch.shape[1:] for batch in images}
    if len(shapes) > 1:
        raise ValueError(
            "All images must have one shape. Received: images of shapes "
            f"{', '.join(map(str, sorted(shapes)))}."
        )
    return sort(np.concatenate(images), np.concatenate(classes), num_classes)


def sort(images: Array, classes: Array, num_classes: int) -> Samples:
    """The samples of arrays (n, ...) and (n,), sorted by their digests."""
    digests = [
        hashlib.blake2b(
            np.ascontiguousarray(image).tobytes(),
            digest_size=16,
            salt=int(label).to_bytes(8, "little"),
        ).digest()
        for image, label in zip(images, classes, strict=True)
    ]
    places = np.array(sorted(range(len(digests)), key=digests.__getitem__))
    digests.sort()
    starts = np.frombuffer(b"".join(d[:4] for d in digests), "<u4")
    classes = classes[places].astype("int64")
    return Samples(
        images=images[places],
        labels=np.eye(num_classes, dtype="float32")[classes],
        classes=classes,
        # An int32 tensor has no room for the highest bit.
        ids=(starts & 0x7FFFFFFF).astype("int32"),
        places=places,
        digest=hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest(),
    )


def seed_of(seed: int, number: int) -> int:
    """The seed of an attack of a list, whose numbers count from 0."""
    return int(seed) + _SPREAD * number

"""What a data set is before its images are chosen, and the digits."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_wake.datasets.images import ImageArrays
from keras_wake.datasets.sampling import stratified_sample

DIGITS_TEST_FRACTION = 0.2


class Source(NamedTuple):
    """A data set whose labels are known and whose images may not be read yet.

    Attributes:
        train_labels: `(N,)` labels of the training images.
        test_labels: `(M,)` labels of the test images.
        class_names: Names in the order of the labels.
        default_augment: The augmentation that is usual for it.
        read: From the chosen positions of every split, where "test" counts
            in the test images and all others in the training images, to the
            images of every split and the names of the unreadable files.
    """

    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    default_augment: str
    read: Callable[
        [dict[str, np.ndarray]], tuple[dict[str, ImageArrays], tuple[str, ...]]
    ]


def in_memory(
    train: ImageArrays,
    test: ImageArrays,
    class_names: tuple[str, ...],
    default_augment: str,
) -> Source:
    """A source whose images are all there."""

    def read(
        chosen: dict[str, np.ndarray],
    ) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
        pools = {name: test if name == "test" else train for name in chosen}
        return {
            name: pools[name].take(positions)
            for name, positions in chosen.items()
        }, ()

    return Source(train.labels, test.labels, class_names, default_augment, read)


def digits() -> Source:
    """scikit-learn's 1,797 grey 8x8 digits, one fifth of them for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The data set 'digits' needs scikit-learn. "
            "Install it with `pip install keras-wake[examples]`."
        ) from error
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    data = ImageArrays(images, bunch.target.astype(np.int32), white=16)
    # One split for everybody: results with different seeds are compared on
    # the same test images.
    test = stratified_sample(
        data.labels,
        round(DIGITS_TEST_FRACTION * len(data)),
        np.random.default_rng(0),
    )
    train = np.setdiff1d(np.arange(len(data)), test)
    class_names = tuple(str(name) for name in bunch.target_names)
    return in_memory(data.take(train), data.take(test), class_names, "none")

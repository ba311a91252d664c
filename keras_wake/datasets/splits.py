"""Which images each split has, and the result of `load`."""

import dataclasses
import numbers

import numpy as np

from keras_wake.datasets.numpy_pipeline import EpochCounter
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import Source
from keras_wake.datasets.source import unit_range
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset

SPLIT_NAMES = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test images, as made by `load`.

    Iterating over `train` to its end is one epoch: the next pass has another
    order and other augmentation, and both depend on the seed and the number
    of the epoch alone. A pass that is given up half-way does not count.

    On the TensorFlow backend the data sets are `tf.data.Dataset`s, on the
    others `keras.utils.PyDataset`s of NumPy arrays. The batches are the same,
    bit for bit, with the same `drop_remainder`; on the others, pass
    `shuffle=False` to the `fit` of a model that is no `WakeModel`.

    On JAX, all devices that share a batch get the same number of images. So
    `train` may leave out the last few images of an epoch, which are others in
    each epoch. If `validation` or `test` cannot be divided evenly, all its
    batches are `(images, labels, sample_weight)`, and the last one is filled
    up with copies whose weight is 0.

    Attributes:
        train: Shuffled, augmented batches: images float32
            `(batch, height, width, channels)` in [0, 1], labels int32
            `(batch,)`, or float32 `(batch, num_classes)`: one-hot, or soft
            with CutMix. The last batch may be smaller, or left out: see
            `drop_remainder` of `load`.
        validation: The same without shuffling, augmentation and CutMix, taken
            from the training data; None when `validation_split` is 0.
        test: The test images, without shuffling, augmentation and CutMix.
        class_names: Names of the classes in the order of the labels.
        input_shape: `(height, width, channels)` of an image.
        train_size: Number of training images.
        validation_size: Number of validation images.
        test_size: Number of test images.
        skipped: Files that could not be read as images.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train_size: int
    validation_size: int
    test_size: int
    skipped: tuple[str, ...] = ()
    _arrays: dict[str, ImageArrays] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    _epoch: EpochCounter = dataclasses.field(
        default_factory=EpochCounter, repr=False, compare=False
    )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def arrays(
        self, split: str, *, limit: int | None = None
    ) -> tuple[Array, Array]:
        """A split as NumPy arrays, in fixed order, not augmented or mixed.

        Args:
            split: "train", "validation" or "test".
            limit: Number of images, a stratified part that is always the
                same one. Defaults to `None`, which is all of them.

        Returns:
            Images float32 `(N, height, width, channels)` in [0, 1] and labels
            int32 `(N,)`.

        Raises:
            ValueError: The split is unknown or has no images, or `limit` is
                out of range.

        Example:

        ```python
        import keras_wake as kw

        splits = kw.datasets.load("digits")
        x, y = splits.arrays("validation", limit=50)  # (50, 8, 8, 1), (50,)
        ```
        """
        validate.one_of(SPLIT_NAMES, split=split)
        if split not in self._arrays:
            raise ValueError(
                f"There are no {split} images. Pass `validation_split` "
                "greater than 0 to `load` to set some aside."
            )
        data = self._arrays[split]
        if limit is not None:
            limit = validate.integer(1, limit=limit)
            _check_limit("limit", limit, f"{split} images", len(data))
            rng = np.random.default_rng(0)
            data = data.take(stratified_sample(data.labels, limit, rng))
        return unit_range(data.images, data.white), data.labels.copy()

    def set_epoch(self, epoch: int) -> None:
        """Makes the passes over `train` those of `epoch`, until called again.

        Needed with `keras.callbacks.BackupAndRestore`, where the epoch to go
        on with is not known when `load` is called. (`BackupAndRestore` of
        keras-wake needs no help.) Call it when an epoch begins:
        `LambdaCallback(on_epoch_begin=lambda e, logs: splits.set_epoch(e))`.
        After the first call, finished passes are no longer counted.

        Args:
            epoch: Number of the epoch, counted from 0.
        """
        self._epoch.pin(validate.integer(0, epoch=epoch))


def stratified_sample(
    labels: Array, count: int, rng: np.random.Generator, keep: int = 0
) -> Array:
    """Positions of `count` images with the class proportions of `labels`.

    Each class gets its proportional share, rounded down; what is left goes
    to the largest remainders, so the sample has exactly `count` images. `keep`
    images of each class are not taken. The positions are in ascending order.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    available = np.maximum(sizes - keep, 0)
    quotas = count * sizes / len(labels)
    shares = np.minimum(np.floor(quotas).astype(int), available)
    while shares.sum() < count:
        missing = np.where(shares < available, quotas - shares, -np.inf)
        shares[np.argmax(missing)] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def choose(
    source: Source,
    validation_split: float | int,
    limit: int | None,
    test_limit: int | None,
    seed: int,
) -> dict[str, Array]:
    """Chooses the images of every split, in stratified samples.

    Returns:
        Positions for "train" and, unless `validation_split` is 0, for
        "validation", both in the training images, and for "test" in the test
        images; in ascending order.
    """
    train_labels, test_labels = source.train_labels, source.test_labels
    chosen = {"train": np.arange(len(train_labels))}
    if validation_split:
        count = _validation_count(validation_split, train_labels)
        rng = np.random.default_rng([seed, 1])
        validation = stratified_sample(train_labels, count, rng, keep=1)
        chosen["validation"] = validation
        chosen["train"] = np.setdiff1d(chosen["train"], validation)
    chosen["test"] = np.arange(len(test_labels))
    for name, labels, wanted, argument, after, stream in (
        ("train", train_labels, limit, "limit", " that are left", 2),
        ("test", test_labels, test_limit, "test_limit", "", 3),
    ):
        if wanted is not None:
            of_what = f"{name} images{after}"
            _check_limit(argument, wanted, of_what, len(chosen[name]))
            rng = np.random.default_rng([seed, stream])
            sample = stratified_sample(labels[chosen[name]], wanted, rng)
            chosen[name] = chosen[name][sample]
    return chosen


def _check_limit(name: str, limit: int, of_what: str, available: int) -> None:
    if limit > available:
        raise ValueError(
            f"`{name}` must be at most the number of {of_what}, {available}. "
            f"Received: {name}={limit}."
        )


def _validation_count(validation_split: float | int, labels: Array) -> int:
    count = validation_split
    if not isinstance(count, numbers.Integral):
        count = round(count * len(labels))
    # Every class must keep an image to be learned from.
    largest = len(labels) - len(np.unique(labels))
    if not 1 <= count <= largest:
        raise ValueError(
            f"`validation_split` must set aside between 1 and {largest} of "
            f"the {len(labels)} training images, so that each class keeps "
            f"one. Received: validation_split={validation_split!r}, which is "
            f"{count} images."
        )
    return int(count)

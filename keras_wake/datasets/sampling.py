"""Which images each split keeps, in stratified samples."""

import numbers

import numpy as np


def stratified_sample(
    labels: np.ndarray,
    count: int,
    rng: np.random.Generator,
    keep: int = 0,
) -> np.ndarray:
    """Positions of `count` images with the class proportions of `labels`.

    Each class gets its proportional share, rounded down; what is left goes
    to the largest remainders, so the sample has exactly `count` images.

    Args:
        labels: `(N,)` integer labels.
        count: Size of the sample, at most `N` less what `keep` holds back.
        rng: Source of randomness.
        keep: Images of each class that the sample must leave behind.

    Returns:
        `(count,)` positions in `labels`, in ascending order.
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
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    validation_split: float | int,
    limit: int | None,
    test_limit: int | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Chooses the images of every split.

    Args:
        train_labels: `(N,)` labels of the training images.
        test_labels: `(M,)` labels of the test images.
        validation_split: Part of the training images set aside, a fraction
            below 1 or a number of images.
        limit: Number of training images to keep, or None for all.
        test_limit: Number of test images to keep, or None for all.
        seed: Decides on the samples.

    Returns:
        Positions for "train" and, unless `validation_split` is 0, for
        "validation", both in the training images, and for "test" in the test
        images; in ascending order.

    Raises:
        ValueError: There are fewer images than wanted.
    """
    chosen = {"train": np.arange(len(train_labels))}
    if validation_split:
        count = _validation_count(validation_split, train_labels)
        rng = np.random.default_rng([seed, 1])
        validation = stratified_sample(train_labels, count, rng, keep=1)
        chosen["validation"] = validation
        chosen["train"] = np.setdiff1d(chosen["train"], validation)
    chosen["test"] = np.arange(len(test_labels))
    for name, wanted, argument, stream in (
        ("train", limit, "limit", 2),
        ("test", test_limit, "test_limit", 3),
    ):
        if wanted is None:
            continue
        available = chosen[name]
        if wanted > len(available):
            raise ValueError(
                f"`{argument}` must be at most the number of {name} images, "
                f"{len(available)}"
                f"{' after validation is set aside' * (name == 'train')}. "
                f"Received: {argument}={wanted}."
            )
        pool = train_labels if name == "train" else test_labels
        rng = np.random.default_rng([seed, stream])
        sample = stratified_sample(pool[available], wanted, rng)
        chosen[name] = available[sample]
    return chosen


def _validation_count(validation_split: float | int, labels: np.ndarray) -> int:
    count = validation_split
    if not isinstance(validation_split, numbers.Integral):
        count = round(validation_split * len(labels))
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

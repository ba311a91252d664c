"""Stratified samples: which images a split keeps, class by class."""

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

"""Features, logits and checks that the three ways to the optimum share.

Arrays hold x_E1, x_E2, x_E3, x_C1, x_C2, x_C3 in their last axis. NumPy, in
float64.
"""

from collections.abc import Sequence

import numpy as np

from keras_wake.utils.types import Array

NUM_CLASSES = 3
NUM_FEATURES = 2 * NUM_CLASSES

# A pair (w1, w2).
Weights = Sequence[float] | Array


def logits_of(x: Array, weights: Weights) -> Array:
    """Logits `w1 x_Ei + w2 Σ_{j≠i} x_Cj` of equation (14), in float64.

    Args:
        x: Array (..., 6): x_E1, x_E2, x_E3, x_C1, x_C2, x_C3.
        weights: Pair (w1, w2).

    Returns:
        Float64 array (..., 3).

    Example:

    >>> logits_of([1, 0, 0, 0, 2, 3], weights=(1.0, 10.0))
    array([51., 30., 20.])
    """
    return features_of(x) @ np.asarray(weights, "float64")


def features_of(x: Array) -> Array:
    """The factors of w1 and w2 in each logit: (..., 6) to (..., 3, 2)."""
    exclusive, common = np.split(np.asarray(x, "float64"), 2, axis=-1)
    of_others = common.sum(axis=-1, keepdims=True) - common
    return np.stack([exclusive, of_others], axis=-1)


def present_features(label: int | Array) -> Array:
    """Which of the six features the samples of a class have: (..., 6)."""
    is_own = np.asarray(label)[..., None] == np.arange(NUM_CLASSES)
    return np.concatenate([is_own, ~is_own], axis=-1)


def check_weights(weights: Weights) -> Array:
    """Checks a pair (w1, w2) of the hypothesis space, as float64 (2,)."""
    values = np.asarray(weights, "float64")
    if values.shape != (2,) or not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(
            "`weights` must be a pair (w1, w2) of numbers that are at least "
            f"0. Received: weights={weights!r}."
        )
    return values


def check_samples(x: Array, y: Array) -> tuple[Array, Array]:
    """Checks samples (N, 6) and their classes (N,)."""
    x, y = np.asarray(x, "float64"), np.asarray(y)
    if x.ndim != 2 or x.shape[1] != NUM_FEATURES or y.shape != x.shape[:1]:
        raise ValueError(
            f"`x` and `y` must have shapes (N, {NUM_FEATURES}) and (N,). "
            f"Received: shapes {x.shape} and {y.shape}."
        )
    if not len(x) or not np.isin(y, range(NUM_CLASSES)).all():
        raise ValueError(
            "`y` must hold the classes 0, 1 and 2. "
            f"Received: {np.unique(y).tolist()}."
        )
    return x, y

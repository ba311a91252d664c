"""The optimum of the synthetic model from samples, without its theorems.

It uses neither Lemma 2 nor the closed forms, so it can check them.
"""

import itertools

import numpy as np

from keras_wake.theory import features
from keras_wake.utils import validate
from keras_wake.utils.types import Array

MOST_ITERATIONS = 100


def robust_loss(
    weights: features.Weights,
    x: Array,
    y: Array,
    epsilon: float,
    weight_decay: float = 1.0,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """The loss (15), or (36) with label smoothing, of a sample.

    The inner maximum is found for each sample by trying all 64 corners of
    the cube {−ε, ε}⁶: the margin is convex in δ, so one of them is worst. The
    second term of (36) takes the corner with the largest mean margin for all
    samples of a class, as several may have the same margin in one sample.

    Args:
        weights: Pair (w1, w2) of numbers that are at least 0.
        x: Array (N, 6) of samples, as `SyntheticModel.sample` draws them.
        y: Integer array (N,) of their classes, 0 to 2.
        epsilon: ε, radius of the ℓ∞ adversary, at least 0.
        weight_decay: λ of the term λ/2 ‖w‖². Defaults to `1.0`.
        label_smoothing: β, at least 0 and less than 1. Defaults to `0.0`.

    Returns:
        Pair of the loss, a float, and a subgradient of it in the weights,
        float64 (2,).

    Raises:
        ValueError: If shapes or classes are wrong.

    Example:

    >>> model = kw.theory.SyntheticModel()
    >>> x, y = model.sample(20_000, seed=0)
    >>> loss, gradient = robust_loss((0.8, 0.2), x, y, epsilon=0.1)
    """
    w = features.check_weights(weights)
    x, y = features.check_samples(x, y)
    epsilon = validate.in_range(0, np.inf, epsilon=epsilon)
    decay = validate.positive(weight_decay=weight_decay)
    beta = validate.fraction(label_smoothing=label_smoothing)
    corners = itertools.product((-epsilon, epsilon), repeat=x.shape[1])
    shifts = features.features_of(np.array(list(corners)))

    slope = np.zeros(2)
    for label in np.unique(y):
        factors = features.features_of(x[y == label])
        others = [j for j in range(features.NUM_CLASSES) if j != label]
        clean = factors[:, others] - factors[:, [label]]
        moved = shifts[:, others] - shifts[:, [label]]
        margins = np.stack([(clean @ w + m @ w).max(axis=1) for m in moved])
        worst = clean + moved[margins.argmax(axis=0)]
        rival = (worst @ w).argmax(axis=1)
        slope += (1 - beta) * worst[np.arange(len(worst)), rival].sum(axis=0)
        common = shifts[margins.mean(axis=1).argmax()]
        smoothed = factors[:, others] + common[others]
        slope -= beta / 2 * smoothed.sum(axis=(0, 1))
    slope /= len(x)
    # For chosen corners and rivals the loss is linear in w, up to weight decay:
    # so its value is slope · w.
    return float(slope @ w + decay / 2 * w @ w), slope + decay * w


def monte_carlo_weights(
    x: Array,
    y: Array,
    epsilon: float,
    weight_decay: float = 1.0,
    label_smoothing: float = 0.0,
) -> tuple[float, float]:
    """The weights w ≥ 0 that minimise `robust_loss` on a sample.

    Found by dual averaging: each step minimises the weight decay plus the
    mean of the slopes g so far,

        w_{k+1} = max(0, −(g_1 + … + g_k) / (k λ)),

    until the slope at w_k alone leads to w_k, the condition of the optimum.
    Slopes are taken at weights slightly above 0, where the adversary still
    prefers one corner.

    Args:
        x: Samples, as in `robust_loss`.
        y: Their classes.
        epsilon: ε.
        weight_decay: λ. Defaults to `1.0`.
        label_smoothing: β. Defaults to `0.0`.

    Returns:
        Pair of floats (w1, w2).

    Raises:
        ValueError: If shapes or classes are wrong, or no optimum is found.

    Example:

    >>> model = kw.theory.SyntheticModel()
    >>> x, y = model.sample(20_000, seed=0)
    >>> w1, w2 = monte_carlo_weights(x, y, epsilon=0.1)
    """
    decay = validate.positive(weight_decay=weight_decay)
    w, mean = np.ones(2) / decay, np.zeros(2)
    for k in range(1, MOST_ITERATIONS + 1):
        inside = np.maximum(w, 1e-9 / decay)
        _, gradient = robust_loss(inside, x, y, epsilon, decay, label_smoothing)
        slope = gradient - decay * inside
        optimum = np.maximum(0.0, -slope / decay)
        if np.allclose(optimum, w, rtol=1e-9, atol=1e-9 / decay):
            return float(optimum[0]), float(optimum[1])
        mean += (slope - mean) / k
        w = np.maximum(0.0, -mean / decay)
    raise ValueError(
        f"No optimum within {MOST_ITERATIONS} iterations. The samples must "
        "follow the synthetic model: draw them with `SyntheticModel.sample`. "
        f"Received: x of shape {np.shape(x)}, epsilon={epsilon!r}."
    )

"""The synthetic model of WAKE's appendix E and its closed forms.

It shows why a classifier that faces a strong adversary drops the features
that classes share. Numbers in brackets are equations of the appendix.
"""

import dataclasses
import math

import numpy as np

from keras_wake.theory import features
from keras_wake.utils import validate
from keras_wake.utils.types import Array


def expected_maximum(mean: float = 0.0, stddev: float = 1.0) -> float:
    """Mean of the larger of two independent normal numbers (Lemma 1).

    E[max(X, Y)] = μ + σ / √π for independent X, Y ~ N(μ, σ²).

    Args:
        mean: μ. Defaults to `0.0`.
        stddev: σ, greater than 0. Defaults to `1.0`.

    Returns:
        A float.

    Raises:
        ValueError: If `stddev` is not greater than 0.

    Example:

    >>> round(expected_maximum(), 4)
    0.5642
    """
    stddev = validate.positive(stddev=stddev)
    return validate.real(mean=mean) + stddev / math.sqrt(math.pi)


@dataclasses.dataclass(frozen=True)
class SyntheticModel:
    """Three classes with features of their own and features that they share.

    A sample of class i has six features. Class i alone has the exclusive
    feature x_Ei; the common feature x_Cj belongs to both classes other
    than j:

        x_Ej ~ N(μ, σ²) if j = i, else 0
        x_Cj ~ N(μ, σ²) if j ≠ i, else 0

    The classifier has two weights, w1 ≥ 0 for the exclusive features and
    w2 ≥ 0 for the common ones, with the logits of `logits_of`. It minimises
    the robust loss (15), for an ℓ∞ adversary with radius ε < μ/2:

        E[max_δ (max_{j≠i} f(x + δ)_j − f(x + δ)_i)] + λ/2 ‖w‖²

    or, with label smoothing β, which stands for distillation (36):

        E[(1 − β) max_δ (…) − β/2 Σ_{j≠i} f(x + δ)_j] + λ/2 ‖w‖²

    where the δ of the second term is that of the first. From a radius
    `critical_epsilon()` on, the common features are dropped (w2 = 0); label
    smoothing moves that radius up. Classes are counted from 0.

    Args:
        mu: μ, mean of a feature that is present. Defaults to `1.0`.
        sigma: σ, its standard deviation, less than √π μ. Defaults to `1.0`.
        weight_decay: λ of the term λ/2 ‖w‖². Defaults to `1.0`.

    Raises:
        TypeError, ValueError: If an argument is not a number in its range.

    The methods raise the same. They take `epsilon`, ε, at least 0 and less
    than μ/2; `label_smoothing`, β, at least 0 and less than 1; and `weights`,
    a pair (w1, w2) of numbers that are at least 0.

    Example:

    >>> model = SyntheticModel(mu=1.0, sigma=1.0, weight_decay=1.0)
    >>> w1, w2 = model.optimal_weights(epsilon=0.1)
    >>> round(w1, 4), round(w2, 4)
    (0.8, 0.2358)
    >>> round(model.critical_epsilon(), 4)
    0.2179
    >>> model.optimal_weights(epsilon=0.25)
    (0.5, 0.0)
    """

    mu: float = 1.0
    sigma: float = 1.0
    weight_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "weight_decay"):
            value = validate.positive(**{name: getattr(self, name)})
            object.__setattr__(self, name, value)
        if self.sigma >= math.sqrt(math.pi) * self.mu:
            raise ValueError(
                "`sigma` must be less than √π · mu = "
                f"{math.sqrt(math.pi) * self.mu:g}, as the theorems assume. "
                f"Received: mu={self.mu!r}, sigma={self.sigma!r}."
            )

    def optimal_weights(
        self, epsilon: float, label_smoothing: float = 0.0
    ) -> tuple[float, float]:
        """The weights of least loss, in closed form.

        Without label smoothing (29), (31), with it (39):

            w1 = max(0, (1 − β) μ − (2 − 3β) ε) / λ
            w2 = max(0, μ − (1 − β)(2ε + σ/√π)) / λ

        Below (29) the source calls the derivative for ε > ε0 negative; it is
        always *positive*, which is why w2 is 0.

        Args:
            epsilon: ε, in the units of x.
            label_smoothing: β. Defaults to `0.0`.

        Returns:
            Pair of floats (w1, w2).
        """
        slopes = self._slopes(epsilon, label_smoothing)
        w1, w2 = (max(0.0, -slope) / self.weight_decay for slope in slopes)
        return w1, w2

    def critical_epsilon(self, label_smoothing: float = 0.0) -> float:
        """The radius from which on w2 = 0: ε0, or ε1 with label smoothing.

            ε1 = (μ / (1 − β) − σ/√π) / 2, and ε0 is that of β = 0

        With a large β it lies beyond μ/2, the end of the range of ε; then
        w2 > 0 in the whole range.

        Args:
            label_smoothing: β. Defaults to `0.0`.

        Returns:
            A float, greater than 0.
        """
        kept = 1 - validate.fraction(label_smoothing=label_smoothing)
        return (self.mu / kept - expected_maximum(0.0, self.sigma)) / 2

    def smoothing_gain(self, epsilon: float, label_smoothing: float) -> float:
        """What label smoothing adds to w2: w2^LS − w2* (Corollary 1).

        Up to ε0 it is β (2ε + σ/√π) / λ, the difference (41). Between ε0 and
        ε1, w2* is 0, not (40), so the gain is w2^LS itself.

        Args:
            epsilon: ε.
            label_smoothing: β.

        Returns:
            A float, at least 0.
        """
        smoothed = self.optimal_weights(epsilon, label_smoothing)
        return smoothed[1] - self.optimal_weights(epsilon)[1]

    def expected_loss(
        self,
        weights: features.Weights,
        epsilon: float,
        label_smoothing: float = 0.0,
    ) -> float:
        """The loss in closed form: (27), with label smoothing (37).

            (−(1 − β) μ + (2 − 3β) ε) w1
            + ((1 − β)(2ε + σ/√π) − μ) w2 + λ/2 (w1² + w2²)

        The first sign is missing in the source.

        Args:
            weights: Pair (w1, w2).
            epsilon: ε.
            label_smoothing: β. Defaults to `0.0`.

        Returns:
            A float.
        """
        w = features.check_weights(weights)
        slopes = np.array(self._slopes(epsilon, label_smoothing))
        return float(slopes @ w + self.weight_decay / 2 * w @ w)

    def worst_perturbation(self, epsilon: float, label: int = 0) -> Array:
        """The δ that is worst for every sample of a class (Lemma 2).

        For the first class (−ε, ε, ε, ε, −ε, −ε): less of the features that
        the class has, more of those that it lacks.

        Args:
            epsilon: ε.
            label: Class 0, 1 or 2. Defaults to `0`.

        Returns:
            Float64 array (6,).

        Example:

        >>> SyntheticModel().worst_perturbation(0.25)
        array([-0.25,  0.25,  0.25,  0.25, -0.25, -0.25])
        """
        label = validate.one_of(range(features.NUM_CLASSES), label=label)
        present = features.present_features(label)
        return np.where(present, -1.0, 1.0) * self.check_epsilon(epsilon)

    def separation_probability(
        self, weights: features.Weights, epsilon: float
    ) -> float:
        """How often an attacked sample is told from another class.

        Theorem 2: under the worst δ, with t = w2 / w1 and s = σ / (μ − 2ε),

            P(f(x + δ)_i > f(x + δ)_j) = Φ((1 + t) / (√(1 + t²) s)),

        which grows with w2 up to w2 = w1. The source gives the two
        differences of (34) the variance 2σ². It is σ², because the feature
        that is subtracted is the constant ε; the theorem is not affected.

        Args:
            weights: Pair (w1, w2), not both 0.
            epsilon: ε.

        Returns:
            A float between 0.5 and 1.

        Example:

        >>> model = SyntheticModel()
        >>> round(model.separation_probability((1.0, 0.0), 0.1), 4)
        0.7881
        >>> round(model.separation_probability((1.0, 1.0), 0.1), 4)
        0.8711
        """
        w = features.check_weights(weights)
        if not w.any():
            raise ValueError(
                "`weights` must not both be 0: the logits would be equal. "
                f"Received: weights={weights!r}."
            )
        mean = w.sum() * (self.mu - 2 * self.check_epsilon(epsilon))
        score = mean / (math.hypot(*w) * self.sigma)
        return (1 + math.erf(score / math.sqrt(2))) / 2

    def sample(
        self, num_samples: int, label: int | None = None, seed: int = 0
    ) -> tuple[Array, Array]:
        """Draws samples of the data distribution (13).

        Args:
            num_samples: Number of samples of each class.
            label: The only class to draw from: 0, 1 or 2. Defaults to
                `None`, all three.
            seed: Integer. Defaults to `0`.

        Returns:
            Pair (x, y): features, float64 (N, 6), and classes, int32 (N,),
            ordered by class. N is `num_samples`, or three times that.

        Example:

        >>> x, y = SyntheticModel().sample(1000, seed=0)
        >>> x.shape, y.shape
        ((3000, 6), (3000,))
        """
        count = validate.integer(1, num_samples=num_samples)
        rng = np.random.default_rng(validate.integer(0, seed=seed))
        labels = np.arange(features.NUM_CLASSES, dtype="int32")
        if label is not None:
            labels = labels[[validate.one_of(labels.tolist(), label=label)]]
        y = np.repeat(labels, count)
        x = rng.normal(self.mu, self.sigma, (len(y), features.NUM_FEATURES))
        return np.where(features.present_features(y), x, 0.0), y

    def check_epsilon(self, epsilon: float) -> float:
        """Checks that a radius is in the range of the theorems."""
        epsilon = validate.real(epsilon=epsilon)
        if not 0 <= epsilon < self.mu / 2:
            raise ValueError(
                f"`epsilon` must be at least 0 and less than mu / 2 = "
                f"{self.mu / 2:g}, as the theorems assume. "
                f"Received: epsilon={epsilon!r}."
            )
        return epsilon

    def _slopes(self, epsilon: float, smoothing: float) -> tuple[float, float]:
        """Coefficients of w1 and w2 in the loss, without weight decay."""
        epsilon = self.check_epsilon(epsilon)
        beta = validate.fraction(label_smoothing=smoothing)
        excess = expected_maximum(0.0, self.sigma)
        return (
            -(1 - beta) * self.mu + (2 - 3 * beta) * epsilon,
            (1 - beta) * (2 * epsilon + excess) - self.mu,
        )

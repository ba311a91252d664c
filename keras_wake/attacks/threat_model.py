"""What an adversary may do: a norm, a radius and the bounds of a pixel.

A norm is a small object in the table `NORMS`. A threat model adds a radius and
bounds to it. Perturbations are float32 tensors of shape (batch, ...), in the
units of the images.
"""

import math
import numbers
from typing import Any

import keras
from keras import ops

from keras_wake.backend import numerics
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.seeds import Seed
from keras_wake.utils.types import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes (batch,) so that it broadcasts against (batch, ...)."""
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def _are_ascending(bounds: Any) -> bool:
    try:
        low, high = bounds
    except (TypeError, ValueError):
        return False
    return _is_number(low) and _is_number(high) and low < high


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class Linf:
    """The maximum norm: every pixel moves by at most epsilon."""

    name = "linf"
    usual_epsilon = 8 / 255
    usual_step = 1 / 4  # of epsilon

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each sample of `delta`, shape (batch,)."""
        axes = tuple(range(1, len(delta.shape)))
        return ops.max(ops.abs(delta), axis=axes)

    def random(self, shape: tuple, epsilon: float, seed: Seed) -> Tensor:
        """Uniform in [-epsilon, epsilon], each pixel for itself."""
        return keras.random.uniform(
            shape, -epsilon, epsilon, dtype="float32", seed=seed
        )

    def random_of(
        self, shape: tuple, epsilon: float, seed: SampleSeed
    ) -> Tensor:
        """As `random`, from a `SampleSeed`; `shape` is of one sample."""
        return epsilon * self.noise(shape, seed, 0)

    def noise(self, shape: tuple, seed: SampleSeed, counter: Tensor) -> Tensor:
        """Random numbers for a direction: uniform in [-1, 1)."""
        return 2 * seed.uniform(counter, shape) - 1

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 that ascends fastest."""
        return ops.sign(gradient)

    def steepest_if_usual(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Whether `gradient` is finite, and `steepest` if so."""
        # A sum with a NaN or infinite term is not finite.
        return ops.isfinite(ops.sum(gradient)), ops.sign(gradient)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """The point of the ball that is nearest to `delta`."""
        return ops.clip(delta, -epsilon, epsilon)

    def usual_change(self, x: Tensor, epsilon: float) -> Tensor:
        """The largest change of a pixel of `x`."""
        return epsilon

    def diameter(self, shape: tuple, width: float) -> float:
        """Largest distance of two images whose pixels span `width`."""
        return width


class L2:
    """The Euclidean norm over all pixels and channels of an image."""

    name = "l2"
    usual_epsilon = 128 / 255
    usual_step = 1 / 8  # of epsilon

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each sample of `delta`, shape (batch,)."""
        axes = tuple(range(1, len(delta.shape)))
        return ops.sqrt(ops.sum(ops.square(delta), axis=axes))

    def random(self, shape: tuple, epsilon: float, seed: Seed) -> Tensor:
        """Gaussian direction, radius r * epsilon with r uniform in [0, 1]."""
        direction = keras.random.normal(shape, dtype="float32", seed=seed)
        radius = keras.random.uniform((shape[0],), dtype="float32", seed=seed)
        scale = epsilon * radius / (self.size(direction) + 1e-12)
        return direction * per_sample(scale, direction)

    def random_of(
        self, shape: tuple, epsilon: float, seed: SampleSeed
    ) -> Tensor:
        """As `random`, from a `SampleSeed`; `shape` is of one sample."""
        direction = self.noise(shape, seed, 0)
        scale = epsilon * seed.uniform(1) / (self.size(direction) + 1e-12)
        return direction * per_sample(scale, direction)

    def noise(self, shape: tuple, seed: SampleSeed, counter: Tensor) -> Tensor:
        """Random numbers for a direction: Gaussian."""
        return seed.normal(counter, shape)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 that ascends fastest."""
        return numerics.unit_l2(gradient, self._axes(gradient))

    def steepest_if_usual(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Whether all norms are in range, and `steepest` if so."""
        squares = numerics.squared_l2(gradient, self._axes(gradient))
        usual = ops.all(numerics.are_usual(squares))
        return usual, gradient / ops.sqrt(squares)

    def _axes(self, values: Tensor) -> tuple[int, ...]:
        return tuple(range(1, len(values.shape)))

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """The point of the ball that is nearest to `delta`."""
        scale = epsilon / ops.maximum(self.size(delta), max(epsilon, 1e-12))
        return delta * per_sample(scale, delta)

    def usual_change(self, x: Tensor, epsilon: float) -> Tensor:
        """Root mean square of the change of a pixel of `x`."""
        # The size of an image may be known only when the step runs.
        pixels = ops.cast(math.prod(ops.shape(x)[1:]), "float32")
        return epsilon / ops.sqrt(pixels)

    def diameter(self, shape: tuple, width: float) -> float:
        """Largest distance of two images whose pixels span `width`."""
        return width * math.sqrt(math.prod(shape))


NORMS = {norm.name: norm for norm in (Linf, L2)}


class ThreatModel:
    """The set of perturbations that an adversary may choose from.

    A perturbation δ of an image x is allowed if ‖δ‖ ≤ epsilon and every
    pixel of x + δ lies within `bounds`.

    Args:
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        epsilon: Radius in pixel units (8/255 is eight grey levels where the
            bounds are 0 and 1). Defaults to `None`: 8/255 for ℓ∞, 128/255
            for ℓ2, times the width of the bounds.
        bounds: Pair of floats, the smallest and the largest pixel value.
            Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: For an unknown norm, a negative radius, a radius larger
            than the range of pixels, or bounds that are not ascending.

    Example:

    >>> threat = ThreatModel("linf", epsilon=8 / 255)
    >>> threat.norm, threat.bounds
    ('linf', (0.0, 1.0))
    """

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.norm = validate.one_of(NORMS, norm=norm)
        self._norm = NORMS[norm]()
        if not _are_ascending(bounds):
            raise ValueError(
                "`bounds` must be two ascending numbers, the smallest and the "
                f"largest pixel value. Received: bounds={bounds!r}."
            )
        low, high = map(float, bounds)
        self.bounds = (low, high)
        if epsilon is None:
            epsilon = self._norm.usual_epsilon * (high - low)
        self.epsilon = self.check_length(epsilon=epsilon)

    def __setattr__(self, name: str, value: object) -> None:
        # Steps that are compiled already would not learn of a change.
        if name in self.__dict__:
            raise AttributeError(
                "A threat model is fixed. Make another one, or another "
                f"attack, with `{name}={value!r}`."
            )
        super().__setattr__(name, value)

    @property
    def usual_step_size(self) -> float:
        """Step size that is usual for PGD: ε / 4 for ℓ∞, ε / 8 for ℓ2."""
        return self.epsilon * self._norm.usual_step

    def check_length(self, **kwargs: Any) -> float:
        """Checks that a radius or step size fits the range of pixels."""
        ((name, value),) = kwargs.items()
        low, high = self.bounds
        # For l2 the limit depends on the size of the image.
        limit = high - low if self.norm == "linf" else math.inf
        number = validate.real(**kwargs)
        if not 0 <= number <= limit * (1 + 1e-6):
            expected = (
                f"between 0 and {limit:g}, the range of the pixels"
                if limit < math.inf
                else "at least 0"
            )
            raise ValueError(
                f"`{name}` must be {expected}. Received: {name}={value!r}. "
                "It is in pixel units: eight grey levels of images in "
                "[0, 1] are 8/255."
            )
        return number

    def check_images(self, x: Tensor, **lengths: float) -> None:
        """Checks that the radius, and other lengths, suit images like `x`."""
        self.check_image_shape(tuple(x.shape[1:]), **lengths)

    def check_image_shape(self, shape: tuple, **lengths: float) -> None:
        """The same for the shape of one image, without the batch axis."""
        low, high = self.bounds
        if None in shape:
            return
        limit = self._norm.diameter(shape, high - low)
        for name, value in {"epsilon": self.epsilon, **lengths}.items():
            if value > limit * (1 + 1e-6):
                raise ValueError(
                    f"`{name}` must be at most {limit:g}, the largest "
                    f"{self.norm} distance of two images of shape {shape}. "
                    f"Received: {name}={value!r}. It is in pixel units: "
                    "128/255, not 128."
                )

    def random_perturbation(self, x: Tensor, seed: Seed) -> Tensor:
        """A random allowed perturbation of `x`, same shape.

        Args:
            x: Float32 tensor (batch, ...), images.
            seed: What `keras.random` functions take as `seed`, or a
                `SampleSeed`, with which it is the same in every batch.
        """
        x = ops.convert_to_tensor(x)
        if isinstance(seed, SampleSeed):
            shape = tuple(x.shape[1:])
            delta = self._norm.random_of(shape, self.epsilon, seed)
        else:
            delta = self._norm.random(ops.shape(x), self.epsilon, seed)
        return self.project(delta, x)

    def random_on_sphere(
        self, x: Tensor, seed: SampleSeed, counter: Tensor = 0
    ) -> Tensor:
        """A perturbation of norm epsilon, brought into the bounds.

        Args:
            x: Float32 tensor (batch, ...), images.
            seed: A `SampleSeed` for these images.
            counter: Which of its draws to take.
        """
        noise = self._norm.noise(tuple(x.shape[1:]), seed, counter)
        size = per_sample(self._norm.size(noise), noise)
        return self.project(self.epsilon * noise / (size + 1e-12), x)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 along which a loss rises fastest.

        Elements of the gradient that are NaN or infinite count as 0.
        """
        gradient = ops.convert_to_tensor(gradient)
        usual, direction = self._norm.steepest_if_usual(gradient)
        return numerics.short_path_if(
            lambda: usual,
            lambda: direction,
            lambda: self._norm.steepest(numerics.finite(gradient)),
        )

    def steepest_and_origin(
        self, gradient: Tensor, origin: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`steepest`, and the images around which to take the next gradient.

        A pixel whose gradient is NaN or infinite, as that of √x at 0, would
        never move. So its next gradient is taken a little inside the bounds.

        Args:
            gradient: Float32 tensor (batch, ...), taken at `origin` + δ.
            origin: Float32 tensor (batch, ...).
            x: Float32 tensor (batch, ...), images.
        """
        usual, direction = self._norm.steepest_if_usual(gradient)
        return numerics.short_path_if(
            lambda: usual,
            lambda: (direction, origin),
            lambda: (
                self._norm.steepest(numerics.finite(gradient)),
                ops.where(ops.isfinite(gradient), origin, self.inwards(x)),
            ),
        )

    def inwards(self, x: Tensor) -> Tensor:
        """Moves the pixels of `x` off the nearer bound, a fifth of a change."""
        length = 0.2 * self._norm.usual_change(x, self.epsilon)
        return ops.where(x < sum(self.bounds) / 2, x + length, x - length)

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """Brings `delta` into the ball, then `x + delta` into the bounds."""
        x, delta = ops.convert_to_tensor(x), ops.convert_to_tensor(delta)
        delta = self._norm.project(delta, self.epsilon)
        return ops.clip(x + delta, *self.bounds) - x

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each sample of `delta`, shape (batch,)."""
        return self._norm.size(ops.convert_to_tensor(delta))

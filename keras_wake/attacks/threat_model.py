"""What an adversary may do: a norm, a radius and the bounds of a pixel.

Perturbations and images are float32 tensors of shape (batch, ...).
"""

import math
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


def _axes(values: Tensor) -> tuple[int, ...]:
    """All axes but that of the batch."""
    return tuple(range(1, len(values.shape)))


class Linf:
    """The maximum norm: every pixel moves by at most epsilon."""

    name = "linf"
    usual_epsilon = 8 / 255
    usual_step = 1 / 4  # of epsilon

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each sample of `delta`, shape (batch,)."""
        return ops.max(ops.abs(delta), axis=_axes(delta))

    def random(self, x: Tensor, epsilon: float, seed: Seed) -> Tensor:
        """Uniform in [-epsilon, epsilon], each pixel for itself."""
        if isinstance(seed, SampleSeed):
            return epsilon * self.noise(x, seed)
        return keras.random.uniform(
            ops.shape(x), -epsilon, epsilon, dtype="float32", seed=seed
        )

    def noise(self, x: Tensor, seed: SampleSeed) -> Tensor:
        """Random numbers for a direction: uniform in [-1, 1)."""
        return 2 * seed.uniform(0, tuple(x.shape[1:])) - 1

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 that ascends fastest."""
        return ops.sign(gradient)

    def quick_steepest(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
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
    """The Euclidean norm over all pixels; the methods are those of `Linf`."""

    name = "l2"
    usual_epsilon = 128 / 255
    usual_step = 1 / 8  # of epsilon

    def size(self, delta: Tensor) -> Tensor:
        return ops.sqrt(ops.sum(ops.square(delta), axis=_axes(delta)))

    def random(self, x: Tensor, epsilon: float, seed: Seed) -> Tensor:
        """Gaussian direction, radius r * epsilon with r uniform in [0, 1]."""
        if isinstance(seed, SampleSeed):
            direction, radius = self.noise(x, seed), seed.uniform(1)
        else:
            draw = {"dtype": "float32", "seed": seed}
            shape = ops.shape(x)
            direction = keras.random.normal(shape, **draw)
            radius = keras.random.uniform((shape[0],), **draw)
        scale = epsilon * radius / (self.size(direction) + 1e-12)
        return direction * per_sample(scale, direction)

    def noise(self, x: Tensor, seed: SampleSeed) -> Tensor:
        return seed.normal(0, tuple(x.shape[1:]))

    def steepest(self, gradient: Tensor) -> Tensor:
        return numerics.unit_l2(gradient, _axes(gradient))

    def quick_steepest(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        squares = numerics.squared_l2(gradient, _axes(gradient))
        usual = ops.all(numerics.are_usual(squares))
        return usual, gradient / ops.sqrt(squares)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        scale = epsilon / ops.maximum(self.size(delta), max(epsilon, 1e-12))
        return delta * per_sample(scale, delta)

    def usual_change(self, x: Tensor, epsilon: float) -> Tensor:
        """Root mean square of the change of a pixel of `x`."""
        # The size of an image may be known only when the step runs.
        pixels = ops.cast(math.prod(ops.shape(x)[1:]), "float32")
        return epsilon / ops.sqrt(pixels)

    def diameter(self, shape: tuple, width: float) -> float:
        return width * math.sqrt(math.prod(shape))


NORMS = {norm.name: norm for norm in (Linf, L2)}


class Fixed:
    """Base of objects whose attributes are set once.

    Steps that are compiled already would not learn of a change.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__ and not name.startswith("_"):
            kind = type(self).__name__
            raise AttributeError(
                f"The settings of a `{kind}` are fixed. Make another one: "
                f"`{kind}(..., {name}={value!r})`."
            )
        super().__setattr__(name, value)


class ThreatModel(Fixed):
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
        try:
            low, high = (validate.real(bounds=each) for each in bounds)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high:
            raise ValueError(
                "`bounds` must be two ascending numbers, the smallest and the "
                f"largest pixel value. Received: bounds={bounds!r}."
            )
        self.bounds = (low, high)
        if epsilon is None:
            epsilon = self._norm.usual_epsilon * (high - low)
        self.epsilon = self.check_length(epsilon=epsilon)

    @property
    def usual_step_size(self) -> float:
        """Step size that is usual for PGD: ε / 4 for ℓ∞, ε / 8 for ℓ2."""
        return self.epsilon * self._norm.usual_step

    def check_length(self, **kwargs: Any) -> float:
        """Checks that a radius or step size fits the range of pixels."""
        hint = (
            "It is in pixel units: eight grey levels of images in [0, 1] are "
            "8/255."
        )
        if self.norm == "l2":  # The limit depends on the size of the image.
            return validate.not_negative(hint, **kwargs)
        low, high = self.bounds
        return validate.in_range(0, (high - low) * (1 + 1e-6), hint, **kwargs)

    def check_images(self, x: Tensor, **lengths: float) -> None:
        """Checks that the radius, and other lengths, suit images like `x`."""
        self.check_image_shape(tuple(x.shape[1:]), **lengths)

    def check_image_shape(self, shape: tuple, **lengths: float) -> None:
        """The same for the shape of one image, without the batch axis."""
        if None in shape:
            return
        low, high = self.bounds
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

        With a `SampleSeed`, it is the same in every batch.
        """
        x = ops.convert_to_tensor(x)
        return self.project(self._norm.random(x, self.epsilon, seed), x)

    def random_on_sphere(self, x: Tensor, seed: SampleSeed) -> Tensor:
        """A perturbation of norm epsilon, brought into the bounds."""
        noise = self._norm.noise(x, seed)
        size = per_sample(self._norm.size(noise), noise)
        return self.project(self.epsilon * noise / (size + 1e-12), x)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 along which a loss rises fastest.

        Elements of the gradient that are NaN or infinite count as 0.
        """
        gradient = ops.convert_to_tensor(gradient)
        usual, direction = self._norm.quick_steepest(gradient)
        return numerics.fast_path_if(
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
        `gradient` was taken at `origin` + δ.
        """
        usual, direction = self._norm.quick_steepest(gradient)
        return numerics.fast_path_if(
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

"""Square: a search that sees logits alone, by changing windows of an image."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_wake.attacks import square_windows
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.square_windows import Placed
from keras_wake.attacks.staged import StagedAttack
from keras_wake.attacks.threat_model import per_sample
from keras_wake.losses.margin import searched_margin
from keras_wake.utils import validate
from keras_wake.utils.seeds import SampleSeed
from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class Square(StagedAttack):
    """Square Attack (Andriushchenko et al. 2020), a random search.

    It uses no gradient, and so finds what masked gradients hide. Each query
    changes a square window at a random place; the change is kept where the
    margin z_y − max_{k≠y} z_k becomes smaller, or the image misclassified.

    For ℓ∞ the search starts from vertical stripes of ±epsilon, and a window
    is set to +epsilon or −epsilon, each channel for itself. For ℓ2 it starts
    from a grid of smooth bumps; a query takes what a second window has of the
    norm, gives it to the first one, and adds a smooth window η there.
    Windows shrink after the published numbers of queries. Unlike in the
    published code, a window may cover the last row and column.

    An image that is misclassified stays as it is, and the search ends when
    all images of the batch are.

    Args:
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        epsilon: Radius in pixel units of [0, 1]. Defaults to `None`: 8/255
            for ℓ∞, 128/255 for ℓ2.
        queries: Number of forward passes, with that of the start. Defaults
            to `5000`.
        p_init: Share of the pixels that are changed at first. Defaults to
            `0.8`.
        restarts: Number of random starts. Defaults to `1`.
        bounds: Smallest and largest pixel value. Defaults to `(0.0, 1.0)`.
        stretch_schedule: Whether windows shrink in proportion to `queries`,
            with the published numbers for 10,000 of them, so that a short
            search sees small windows, too. The standard AutoAttack does not.
            Defaults to `False`.

    Raises:
        ValueError: For an unknown norm, a number out of range, or, when it is
            called, inputs that are not images with two axes and channels.

    Example:

    ```python
    classifier = keras_wake.models.SmallCNN()
    attack = keras_wake.attacks.Square("linf", epsilon=8/255, queries=100)
    x = np.random.uniform(size=(8, 32, 32, 3)).astype("float32")
    y = np.arange(8)
    x_adv = attack(classifier, x, y, seed=0)  # (8, 32, 32, 3)
    ```
    """

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        queries: int = 5000,
        p_init: float = 0.8,
        restarts: int = 1,
        bounds: tuple[float, float] = (0.0, 1.0),
        stretch_schedule: bool = False,
    ) -> None:
        super().__init__(norm, epsilon, bounds)
        self.queries = validate.integer(1, queries=queries)
        self.p_init = validate.in_range(0, 1, p_init=p_init)
        self.restarts = validate.integer(1, restarts=restarts)
        self.stretch_schedule = validate.boolean(
            stretch_schedule=stretch_schedule
        )

    def stages_for(self, num_classes: int) -> int:
        """Number of restarts."""
        return self.restarts

    def passes(self, num_classes: int) -> tuple[int, int]:
        """Largest number of forward passes, and no backward pass."""
        return self.queries, 0

    def check_image_shape(self, shape: tuple) -> None:
        """Refuses what has no windows."""
        super().check_image_shape(shape)
        if len(shape) != 3:
            axes = (
                "channels, height, width"
                if _channels_first()
                else "height, width, channels"
            )
            raise ValueError(
                "`Square` changes windows of images and needs images of shape "
                f"(batch, {axes}). Received: shape (batch, "
                f"{', '.join(map(str, shape))}). Leave it out for other data."
            )

    def run_stage(
        self,
        classifier: Callable,
        x: Tensor,
        labels: Tensor,
        seed: SampleSeed,
        stage: Tensor,
    ) -> Tensor:
        """Perturbations that one search has led to, float32 like `x`."""
        logits_of = stateless_logits(classifier)
        if not _channels_first():
            return self._search(logits_of, x, labels, seed)
        delta = self._search(
            lambda images: logits_of(ops.transpose(images, (0, 3, 1, 2))),
            ops.transpose(x, (0, 2, 3, 1)),
            labels,
            seed,
        )
        return ops.transpose(delta, (0, 3, 1, 2))

    def _search(
        self, logits_of: Callable, x: Tensor, labels: Tensor, seed: SampleSeed
    ) -> Tensor:
        """Perturbations of images with the channels last."""
        windows = _WINDOWS[self.norm](self, tuple(x.shape[1:]))
        project = self.threat_model.project

        def loss_of(delta: Tensor) -> Tensor:
            return searched_margin(labels, logits_of(x + delta))

        def goes_on(query: Tensor, delta: Tensor, loss: Tensor) -> Tensor:
            return ops.logical_and(query < self.queries, ops.any(~(loss > 0)))

        def step(
            query: Tensor, delta: Tensor, loss: Tensor
        ) -> tuple[Tensor, ...]:
            draws = seed.uniform(query, (windows.draws,))
            changed = project(windows.changed(delta, draws, query), x)
            new = loss_of(changed)
            # With a loss above 0 an image is misclassified, and stays so.
            better = ops.logical_and(new > loss, ~(loss > 0))
            delta = ops.where(per_sample(better, x), changed, delta)
            return query + 1, delta, ops.where(better, new, loss)

        draws = seed.uniform(0, (windows.start_draws,))
        start = project(windows.start(draws), x)
        begin = (ops.ones((), "int32"), start, loss_of(start))
        return ops.while_loop(goes_on, step, begin)[1]

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "queries": self.queries,
            "p_init": self.p_init,
            "restarts": self.restarts,
            "stretch_schedule": self.stretch_schedule,
        }

    @classmethod
    def from_config(cls, config: Config) -> "Square":
        """Makes the attack again from `get_config()`."""
        # Older configs have no entry: their schedule was always scaled.
        return cls(**{"stretch_schedule": True, **config})


class _LinfWindows:
    """Stripes and windows of ±epsilon.

    Args:
        attack: A `Square`.
        shape: Height, width and channels of an image.
    """

    smooth = False

    def __init__(self, attack: Square, shape: tuple[int, int, int]) -> None:
        self.epsilon = attack.epsilon
        self.height, self.width, self.channels = shape
        self.sides = square_windows.window_sides(
            attack.queries,
            attack.p_init,
            self.height,
            self.width,
            self.smooth,
            attack.stretch_schedule,
        )
        # A place, and a sign for each channel.
        self.draws = 2 + self.channels
        self.start_draws = self.width * self.channels

    def start(self, draws: Tensor) -> Tensor:
        """δ of the first query, (batch, height, width, channels)."""
        stripes = ops.reshape(draws, (-1, 1, self.width, self.channels))
        stripes = ops.repeat(stripes, self.height, axis=1)
        return self.epsilon * _signs(stripes)

    def changed(self, delta: Tensor, draws: Tensor, query: Tensor) -> Tensor:
        """δ with a window that is drawn anew."""
        window = self._placed(draws[:, :2], query)
        signs = _signs(draws[:, None, None, 2:])
        return ops.where(window.mask, self.epsilon * signs, delta)

    def _placed(self, place: Tensor, query: Tensor) -> Placed:
        side = ops.take(ops.convert_to_tensor(self.sides), query)
        return Placed(place, side, self.height, self.width)


class _L2Windows(_LinfWindows):
    """Smooth windows, which pass norm on from one to another."""

    smooth = True

    def __init__(self, attack: Square, shape: tuple[int, int, int]) -> None:
        super().__init__(attack, shape)
        # Two places, whether it is turned, and a sign for each channel.
        self.draws = 5 + self.channels
        self.tile, self.tiles = square_windows.tiled_windows(
            self.height, self.width
        )
        self.start_draws = self.tiles[0] * self.tiles[1] * (1 + self.channels)
        # One window for each side that occurs, at the top left of zeros.
        different, kinds = np.unique(self.sides, return_inverse=True)
        self.kinds = kinds.astype("int32")
        size = int(different[-1])
        self.patterns = np.zeros((len(different), size, size), "float32")
        for pattern, side in zip(self.patterns, different, strict=True):
            pattern[:side, :side] = square_windows.smooth_window(side)

    def start(self, draws: Tensor) -> Tensor:
        """δ of the first query, (batch, height, width, channels)."""
        rows, columns = self.tiles
        draws = ops.reshape(draws, (-1, rows, 1, columns, 1, 1 + self.channels))
        side = len(self.tile)
        upright, turned = (
            ops.reshape(
                ops.convert_to_tensor(tile, "float32"),
                (1, 1, side, 1, side, 1),
            )
            for tile in (self.tile, self.tile.T)
        )
        grid = ops.where(draws[..., :1] < 0.5, upright, turned)
        grid = grid * _signs(draws[..., 1:])
        grid = ops.reshape(
            grid, (-1, rows * side, columns * side, self.channels)
        )
        return self._of_norm_epsilon(
            square_windows.centred(grid, self.height, self.width)
        )

    def changed(self, delta: Tensor, draws: Tensor, query: Tensor) -> Tensor:
        """δ with the norm of two windows in the first one of them."""
        first = self._placed(draws[:, :2], query)
        second = self._placed(draws[:, 2:4], query)
        either = ops.logical_or(first.mask, second.mask)

        # The squared norm for a channel: that of its two windows, and its share
        # of what is left of epsilon².
        spare = ops.maximum(self.epsilon**2 - _squares(delta, (1, 2, 3)), 0.0)
        freed = _squares(ops.where(either, delta, 0.0), (1, 2))
        budget = ops.sqrt(spare / self.channels + freed)

        kind = ops.take(ops.convert_to_tensor(self.kinds), query)
        smooth = ops.take(ops.convert_to_tensor(self.patterns), kind, axis=0)
        added = ops.where(
            draws[:, 4, None, None, None] < 0.5,
            first.filled(smooth),
            first.filled(ops.transpose(smooth)),
        )
        signs = _signs(draws[:, None, None, 5:])
        old = _unit(ops.where(first.mask, delta, 0.0), (1, 2))
        new = budget * _unit(signs * added + old, (1, 2))
        return self._of_norm_epsilon(ops.where(either, 0.0, delta) + new)

    def _of_norm_epsilon(self, delta: Tensor) -> Tensor:
        return self.epsilon * _unit(delta, (1, 2, 3))


_WINDOWS = {"linf": _LinfWindows, "l2": _L2Windows}


def _channels_first() -> bool:
    return keras.config.image_data_format() == "channels_first"


def _signs(draws: Tensor) -> Tensor:
    """−1 or 1 for numbers that are uniform in [0, 1)."""
    return 1 - 2 * ops.cast(draws < 0.5, "float32")


def _squares(delta: Tensor, axes: tuple[int, ...]) -> Tensor:
    return ops.sum(ops.square(delta), axis=axes, keepdims=True)


def _unit(delta: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Divided by its ℓ2 norm over the axes; zeros stay zeros."""
    return delta / (ops.sqrt(_squares(delta, axes)) + 1e-12)

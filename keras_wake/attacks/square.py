"""Square: a search that sees logits alone, by changing windows of an image."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.logits import stateless_logits
from keras_wake.attacks.search import until_found
from keras_wake.attacks.square_windows import L2Windows
from keras_wake.attacks.square_windows import LinfWindows
from keras_wake.attacks.square_windows import window_sides
from keras_wake.attacks.staged import StagedAttack
from keras_wake.losses.margin import margin_for_search
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

    The search ends for an image when it is misclassified.

    Args:
        norm: As for `ThreatModel`. Defaults to `"linf"`.
        epsilon: As for `ThreatModel`. Defaults to `None`.
        queries: Number of forward passes, with that of the start. Defaults
            to `5000`.
        p_init: Share of the pixels that are changed at first. Defaults to
            `0.8`.
        restarts: Number of random starts. Defaults to `1`.
        bounds: As for `ThreatModel`. Defaults to `(0.0, 1.0)`.
        stretch_schedule: Whether windows shrink in proportion to `queries`,
            with the published numbers for 10,000 of them, so that a short
            search sees small windows, too. The standard AutoAttack does not.
            Defaults to `False`.

    Raises:
        ValueError: For an unknown norm, a number out of range, or, when it is
            called, inputs that are not images with two axes and channels.

    Example:

    >>> Square("linf", epsilon=8 / 255, queries=100).passes(num_classes=10)
    (100, 0)
    """

    _arguments = ("queries", "p_init", "restarts", "stretch_schedule")

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

    def passes(self, num_classes: int) -> tuple[int, int]:
        """Largest number of forward passes, and no backward pass."""
        return self.queries, 0

    def check_image_shape(self, shape: tuple) -> None:
        """Refuses what has no windows."""
        super().check_image_shape(shape)
        if len(shape) != 3:
            raise ValueError(
                "`Square` changes windows of images and needs images of shape "
                "(batch, height, width, channels), or with the channels first. "
                f"Received: images of shape {tuple(shape)}, without the axis "
                "of the batch. Leave it out for other data."
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

    def _windows(self, shape: tuple[int, int, int]) -> LinfWindows:
        """The windows in images of this height, width and channels."""
        smooth = self.norm == "l2"
        sides = window_sides(
            self.queries, self.p_init, *shape[:2], smooth, self.stretch_schedule
        )
        kind = L2Windows if smooth else LinfWindows
        return kind(self.epsilon, shape, sides)

    def _search(
        self, logits_of: Callable, x: Tensor, labels: Tensor, seed: SampleSeed
    ) -> Tensor:
        """Perturbations of images with the channels last."""
        windows = self._windows(tuple(x.shape[1:]))
        project = self.threat_model.project

        def loss_of(those: _Given, delta: Tensor) -> Tensor:
            return margin_for_search(those.labels, logits_of(those.x + delta))

        def step(those: _Given, now: _State) -> _State:
            draws = seed.for_samples(those.ids).uniform(
                now.step, (windows.num_draws,)
            )
            changed = windows.changed(now.delta, draws, now.step)
            changed = project(changed, those.x)
            new = loss_of(those, changed)
            # What is misclassified stays as it is.
            better = ops.logical_and(new > now.loss, ~now.found)
            loss = ops.where(better, new, now.loss)
            return _State(
                step=now.step + 1,
                delta=backend.where_sample(better, changed, now.delta),
                loss=loss,
                found=loss > 0,
            )

        given = _Given(x, labels, seed.ids)
        draws = seed.uniform(0, (windows.num_start_draws,))
        start = project(windows.start(draws), x)
        loss = loss_of(given, start)
        begin = _State(ops.ones((), "int32"), start, loss, loss > 0)
        return until_found(
            step, given, begin, self.queries, lambda end: end.delta
        )

    @classmethod
    def from_config(cls, config: Config) -> "Square":
        """Makes the attack again from `get_config()`."""
        # Older configs have no entry: their schedule was always scaled.
        return cls(**{"stretch_schedule": True, **config})


class _Given(NamedTuple):
    """What no step of the search changes, for each image."""

    x: Tensor
    labels: Tensor
    ids: Tensor


class _State(NamedTuple):
    """The state of the search: for each image, shape (batch,) or like δ."""

    step: Tensor  # number of queries so far, int32 scalar
    delta: Tensor  # the best so far
    loss: Tensor  # its margin
    found: Tensor  # whether it is misclassified


def _channels_first() -> bool:
    return keras.config.image_data_format() == "channels_first"

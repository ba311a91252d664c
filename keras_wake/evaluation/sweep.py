"""Robust accuracy as a function of the radius."""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras

from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.evaluation import robustness
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import evaluate
from keras_wake.evaluation.interval import CONFIDENCE
from keras_wake.evaluation.interval import METHOD
from keras_wake.evaluation.interval import percents
from keras_wake.evaluation.report import Report
from keras_wake.utils import validate
from keras_wake.utils.tables import percent
from keras_wake.utils.tables import table
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json


@dataclasses.dataclass(frozen=True, repr=False)
class EpsilonSweep(Report):
    """Accuracy at several radii. `print(sweep)` shows it as a table.

    `norm`, `bounds`, `seed`, `passes_per_prediction`, `findings`, `date`,
    `versions`, `to_dict` and `to_json` are as in a `RobustnessReport`.

    Attributes:
        attack: What attacked, as text; epsilon and step size are those of
            each radius.
        epsilons: The radii, ascending.
        accuracies: Robust accuracy at each.
        intervals: Its 95 % interval (Wilson) at each.
        samples: How many samples there are.
        seconds: Time of all attacks.
    """

    attack: str
    epsilons: tuple[float, ...]
    accuracies: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    samples: int
    seconds: float

    def to_dict(self) -> Json:
        """The numbers as lists and dictionaries."""
        points = zip(
            self.epsilons, self.accuracies, self.intervals, strict=True
        )
        return super().to_dict() | {
            "attack": self.attack,
            "samples": self.samples,
            "points": [
                {
                    "epsilon": epsilon,
                    "accuracy": accuracy,
                    "interval": list(ends),
                }
                for epsilon, accuracy, ends in points
            ],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        columns = (
            [f"{epsilon:.4g}" for epsilon in self.epsilons],
            map(percent, self.accuracies),
            map(percents, self.intervals),
        )
        rows = [list(row) for row in zip(*columns, strict=True)]
        above = (
            f"{self.samples} samples, {self.norm}, {self.attack}, seed "
            f"{self.seed}, {CONFIDENCE:.0%} interval ({METHOD})"
        )
        tables = table(["epsilon", "accuracy", "interval"], rows)
        return self.text([above], tables)

    def __repr__(self) -> str:
        return (
            f"<EpsilonSweep of {self.samples} samples, {len(self.epsilons)} "
            f"radii up to {self.epsilons[-1]:.4g}>"
        )


def epsilon_sweep(
    classifier: keras.Model,
    data: Dataset,
    epsilons: Sequence[float],
    attack: Attack | Callable[[float], Attack] | str | None = None,
    norm: str | None = None,
    bounds: robustness.Bounds | None = None,
    batch_size: int = 128,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    checks: bool = True,
    verbose: int = 1,
) -> EpsilonSweep:
    """Robust accuracy at several radii, in one run.

    A sample that has fallen at a radius counts as fallen at all larger ones
    and is not attacked again: the curve never rises. It should reach 0 where
    the ball is large enough to turn any image into any other; a curve that
    levels off above 0 points to an attack that does not work.

    Args:
        classifier: Built `keras.Model` that returns logits (batch, K).
        data: Pair of arrays (x, y), or anything that yields such batches.
        epsilons: The radii in pixel units, in any order. At 0 the accuracy is
            the clean one.
        attack: An attack, which is made again for each radius, with its step
            size in the same proportion to it; a function of a radius that
            returns an attack; or a version of `autoattack`, `"standard"` or
            `"rand"`. Defaults to `None`: PGD with 20 steps.
        norm: `"linf"` or `"l2"`, unless the attack has it. Defaults to `None`:
            `"linf"`.
        bounds: Smallest and largest pixel value, unless the attack has them.
            Defaults to `None`: `(0.0, 1.0)`.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`.
        state: File to go on from and to write. Defaults to `None`: none.
        checks: Whether to look for signs that the numbers are too high.
            Defaults to `True`.
        verbose: 0 for silence, 1 for progress bars, 2 for a line for each
            attack. Defaults to `1`.

    Returns:
        An `EpsilonSweep`.

    Raises:
        TypeError, ValueError: As `autoattack`, or for radii that are no
            numbers of at least 0.

    Example:

    ```python
    sweep = kw.evaluation.epsilon_sweep(
        classifier, test, [0, 2/255, 4/255, 8/255, 16/255]
    )
    print(sweep)
    kw.visualization.plot_epsilon_sweep(sweep, path="sweep.png")
    ```
    """
    if not isinstance(epsilons, Iterable) or isinstance(epsilons, str):
        raise TypeError(
            "`epsilons` must be a list of radii such as `[0, 4/255, 8/255]`. "
            f"Received: epsilons={epsilons!r}."
        )
    radii = sorted({validate.not_negative(epsilon=each) for each in epsilons})
    if not radii:
        raise ValueError("`epsilons` must hold at least one radius.")
    make, words = _maker(attack, norm, bounds)
    attacks: dict[str, Attack] = {}
    ends = []
    for radius in radii:
        made = make(radius)
        for name, each in made.items():
            if abs(each.epsilon - radius) > 1e-9 * radius:
                raise ValueError(
                    "`attack` must return an attack of the radius that it is "
                    f"given. Received, for {radius!r}: {each!r}."
                )
            name = f"{name} at "
            short = f"{name}{radius:.6g}"
            attacks[f"{name}{radius!r}" if short in attacks else short] = each
        ends.append(len(attacks) - 1)
    words = words or next(iter(made))
    # They must have one norm and one pair of bounds.
    robustness.named(list(attacks.values()))
    report = evaluate(
        CompiledClassifier(classifier, batch_size),
        data,
        attacks,
        version=attack if isinstance(attack, str) else "custom",
        seed=seed,
        state=state,
        checks=checks,
        verbose=verbose,
    )
    points = [report.attacks[end] for end in ends]
    return EpsilonSweep(
        **{
            field.name: getattr(report, field.name)
            for field in dataclasses.fields(Report)
        },
        attack=words,
        epsilons=tuple(radii),
        accuracies=tuple(point.accuracy for point in points),
        intervals=tuple(point.interval for point in points),
        samples=report.samples,
        seconds=report.seconds,
    )


def _maker(
    attack: Attack | Callable[[float], Attack] | str | None,
    norm: str | None,
    bounds: robustness.Bounds | None,
) -> tuple[Callable[[float], dict[str, Attack]], str]:
    """What makes the attacks of a radius, and its description if it has one."""
    if isinstance(attack, str):
        version = validate.one_of(robustness.VERSIONS, attack=attack)
        return (
            lambda radius: robustness.published(version, norm, radius, bounds),
            f"autoattack, version {version!r}",
        )
    if attack is None:
        attack = PGD(
            steps=20, **robustness.without_none(norm=norm, bounds=bounds)
        )
    elif norm is not None or bounds is not None:
        raise ValueError(
            "`norm` and `bounds` are those of the attack; leave them out. "
            f"Received: attack={attack!r}, norm={norm!r}, bounds={bounds!r}."
        )
    if isinstance(attack, Attack):
        pattern = attack
        hint = "The step size of `attack` is in proportion to it."
        validate.positive(hint, epsilon=pattern.epsilon)
        return (
            lambda radius: robustness.named([_rescaled(pattern, radius)]),
            _described(pattern),
        )
    if not callable(attack):
        raise TypeError(
            "`attack` must be an attack, a function of a radius that returns "
            f"one, or a version of `autoattack`. Received: attack={attack!r}."
        )
    function = attack
    return lambda radius: robustness.named([function(radius)], "attack"), ""


def _rescaled(attack: Attack, radius: float) -> Attack:
    config = {**attack.get_config(), "epsilon": radius}
    if "step_size" in config:
        config["step_size"] *= radius / attack.epsilon
    try:
        return type(attack).from_config(config)
    except TypeError as error:
        raise TypeError(
            f"`attack` is made again for each radius from what "
            f"`{type(attack).__name__}.get_config()` returns, and could not "
            f"be: {error}. Have it return the arguments of the constructor, or "
            "pass a function of a radius that returns an attack."
        ) from error


def _described(attack: Attack) -> str:
    """An attack without its radius, to which its step size is in proportion."""
    config = attack.get_config()
    epsilon = config.pop("epsilon", attack.epsilon)
    settings = {name: repr(value) for name, value in config.items()}
    if "step_size" in config:
        settings["step_size"] = f"{config['step_size'] / epsilon:.4g} * epsilon"
    words = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{type(attack).__name__}({words})"

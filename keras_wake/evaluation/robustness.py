"""Robust accuracy under AutoAttack or one attack, and the lists of attacks.

A list is a dictionary from the name of an attack in the report to the attack.
"""

import functools
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import Square
from keras_wake.attacks import ThreatModel
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import evaluate
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset

Bounds = tuple[float, float]

# The attacks of each version of AutoAttack, with their published settings.
_PUBLISHED: dict[str, list[Callable[..., Attack]]] = {
    "standard": [
        functools.partial(APGD, loss="cross_entropy"),
        functools.partial(APGD, loss="dlr_targeted"),
        FAB,
        Square,
    ],
    "rand": [
        functools.partial(APGD, loss="cross_entropy", eot_samples=20),
        functools.partial(APGD, loss="dlr", eot_samples=20),
    ],
}
VERSIONS = tuple(_PUBLISHED)


def autoattack(
    classifier: keras.Model,
    data: Dataset,
    epsilon: float | None = None,
    norm: str | None = None,
    version: str = "standard",
    attacks: Sequence[Attack] | None = None,
    bounds: tuple[float, float] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    return_images: bool = False,
    class_names: Sequence[str] | None = None,
    checks: bool = True,
    verbose: int = 1,
    shard: tuple[int, int] | None = None,
) -> RobustnessReport:
    """Robust accuracy under AutoAttack (Croce and Hein 2020).

    Attacks run in their order, each on the samples that still stand:

    - `"standard"`: APGD on the cross-entropy and targeted APGD on the DLR
      loss (100 steps, one restart, nine target classes), targeted FAB (100
      steps, nine target classes) and Square (5,000 queries);
    - `"rand"`, for classifiers with random outputs: APGD on the cross-entropy
      and on the DLR loss, with gradients averaged over 20 passes;
    - a list of your own: any attacks of the same norm and bounds.

    A sample stands while no attack has broken it. It is broken only if a
    forward pass of its own misclassifies the image (at least 10 of 20 passes
    where outputs are random), and a computation of its own finds the image
    within the ball and the bounds, to 1e-6 · max(1, ε, |low|, |high|). With
    fewer than ten classes there are K − 1 target classes; the report notes
    what an attack does where K is too small for its loss.

    The order of the samples and their random numbers come from a digest of
    image and class. So neither the order of the data matters nor the size of
    the batches, but for rounding, which can decide an image at the edge of the
    ball. The random numbers of an attack of your own that is no
    `StagedAttack` depend on the batch too.

    All images are held in the memory of the host. Under
    `tf.distribute.MirroredStrategy` (for a classifier made in its scope) and
    `keras.distribution.DataParallel`, each batch is divided evenly among the
    devices.

    Several processes (those of `MultiWorkerMirroredStrategy`,
    `keras.distribution.initialize` or `torch.distributed`) share the images,
    and all return the report of one process. All of them must make this call,
    with all of the data; each writes a `state` of its own. Where their weights
    differ, as by moving statistics of batch norm, the first one evaluates its
    own for all. With `shard=(0, 1)` a process evaluates by itself.

    With `state`, the progress is written to a file after every batch, and the
    same call goes on from there. The classifier, the data, the settings, the
    backend and the version of keras-wake must be the same; the batch size may
    change.

    Args:
        classifier: Built `keras.Model` that returns logits (batch, K).
        data: Pair of arrays (x, y), or anything that yields such batches. Of
            sample weights, only 0 counts: such images are left out.
        epsilon: Radius in pixel units. Defaults to `None`: 8/255 for ℓ∞,
            128/255 for ℓ2, times the width of the bounds.
        norm: `"linf"` or `"l2"`. Defaults to `None`: that of `attacks`, else
            `"linf"`.
        version: `"standard"` or `"rand"`. Defaults to `"standard"`.
        attacks: List of attacks to run instead. Defaults to `None`.
        bounds: Smallest and largest pixel value. Defaults to `None`: those of
            `attacks`, else `(0.0, 1.0)`.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`.
        state: File to go on from and to write, usually ending in `.npz`. With
            `return_images`, images go to a file of that name and `.images`.
            Defaults to `None`: none.
        return_images: Whether the report keeps the adversarial images.
            Defaults to `False`.
        class_names: K names. Defaults to the class numbers.
        checks: Whether to look for signs that the number is too high. Each
            gives a `ReliabilityWarning`: those seen on clean images before
            the attacks, all others after them. Takes a gradient of up to 256
            images, and the first attack with twice the steps on up to 100.
            (Images outside the ball are always reported.) Defaults to `True`.
        verbose: 0 for silence, 1 for progress bars, 2 for a line for each
            attack. Defaults to `1`.
        shard: Pair (i, n) to evaluate share i, counted from 0, of n: every
            n-th image in the order of digests. `join_reports` makes one report
            of all shares. The `state` belongs to the share. Defaults to
            `None`: all images.

    Returns:
        A `RobustnessReport`.

    Raises:
        TypeError: If the classifier is no model or an attack is no attack.
        ValueError: For data or arguments that cannot be right, or if `state`
            is of another evaluation; the message says what differs.

    Example:

    ```python
    report = kw.evaluation.autoattack(
        classifier, (x_test, y_test), epsilon=8/255, state="autoattack.npz"
    )
    print(report)
    kw.visualization.plot_robustness_report(report, path="robust.png")
    ```
    """
    listed, version = attack_list(version, attacks, norm, epsilon, bounds)
    return evaluate(
        CompiledClassifier(classifier, batch_size),
        data,
        listed,
        version=version,
        seed=seed,
        state=state,
        return_images=return_images,
        class_names=class_names,
        checks=checks,
        verbose=verbose,
        shard=shard,
        shared=True,
    )


def robust_accuracy(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack,
    batch_size: int = 128,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    return_images: bool = False,
    class_names: Sequence[str] | None = None,
    checks: bool = True,
    verbose: int = 1,
    shard: tuple[int, int] | None = None,
) -> RobustnessReport:
    """Robust accuracy under a plain attack, such as PGD.

    As `autoattack` with a list of this one attack. Unlike
    `WakeModel.evaluate`, which attacks every image, it leaves those alone that
    are misclassified already: robust accuracy is never above clean accuracy.

    Args:
        classifier: Built `keras.Model` that returns logits (batch, K).
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: What makes the adversarial images.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`.
        state: File to go on from and to write. Defaults to `None`: none.
        return_images: Whether the report keeps the adversarial images.
            Defaults to `False`.
        class_names: K names. Defaults to the class numbers.
        checks: Whether to look for signs that the number is too high.
            Defaults to `True`.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line. Defaults to
            `1`.
        shard: Pair (i, n) to evaluate share i of n, as in `autoattack`.
            Defaults to `None`: all images.

    Returns:
        A `RobustnessReport`.

    Raises:
        TypeError, ValueError: As `autoattack`.

    Example:

    ```python
    report = kw.evaluation.robust_accuracy(
        classifier, test, kw.attacks.PGD(steps=20)
    )
    print(report.robust_accuracy, report.robust_interval)
    ```
    """
    if not isinstance(attack, Attack):
        raise TypeError(
            "`attack` must be an attack such as `keras_wake.attacks.PGD()`. "
            f"Received: attack={attack!r}."
        )
    return evaluate(
        CompiledClassifier(classifier, batch_size),
        data,
        named([attack]),
        seed=seed,
        state=state,
        return_images=return_images,
        class_names=class_names,
        checks=checks,
        verbose=verbose,
        shard=shard,
        shared=True,
    )


def attack_list(
    version: str,
    attacks: Sequence[Attack] | None,
    norm: str | None,
    epsilon: float | None,
    bounds: Bounds | None,
) -> tuple[dict[str, Attack], str]:
    """The attacks to run, checked, and what their list is called."""
    hint = "For a list of your own, pass `attacks=`."
    validate.one_of(VERSIONS, hint, version=version)
    if attacks is None:
        return published(version, norm, epsilon, bounds), version
    listed = named(attacks)
    _check_equal(
        "epsilon",
        attacks,
        " For several radii there is `keras_wake.evaluation.epsilon_sweep`.",
    )
    first = attacks[0]
    wanted = ThreatModel(
        first.norm if norm is None else norm,
        first.epsilon if epsilon is None else epsilon,
        first.bounds if bounds is None else bounds,
    )
    for name in ("norm", "epsilon", "bounds"):
        value = getattr(wanted, name)
        if getattr(first, name) != value:
            raise ValueError(
                f"`{name}` must be that of the attacks, or be left out. "
                f"Received: {name}={value!r}, and {first!r}."
            )
    return listed, "custom"


def published(
    version: str,
    norm: str | None,
    epsilon: float | None,
    bounds: Bounds | None,
) -> dict[str, Attack]:
    """The attacks of a version of AutoAttack, by their names."""
    threat = without_none(norm=norm, epsilon=epsilon, bounds=bounds)
    return named([make(**threat) for make in _PUBLISHED[version]])


def without_none(**settings: Any) -> dict[str, Any]:
    """The settings that are given, so that an attack adds its defaults."""
    return {k: v for k, v in settings.items() if v is not None}


def named(
    attacks: Sequence[Attack], argument: str = "attacks"
) -> dict[str, Attack]:
    """Attacks of one norm and one pair of bounds, by different names."""
    if not isinstance(attacks, Sequence) or not all(
        isinstance(attack, Attack) for attack in attacks
    ):
        raise TypeError(
            f"`{argument}` must be a list of attacks such as "
            "`[keras_wake.attacks.PGD()]`. Received: "
            f"{argument}={attacks!r}."
        )
    if not attacks:
        raise ValueError(f"`{argument}` must hold at least one attack.")
    _check_equal("norm", attacks)
    _check_equal("bounds", attacks)
    found: dict[str, Attack] = {}
    for attack in attacks:
        name, count = attack.name, 1
        while name in found:
            count += 1
            name = f"{attack.name} ({count})"
        found[name] = attack
    return found


def _check_equal(
    setting: str, attacks: Sequence[Attack], hint: str = ""
) -> None:
    values = list(dict.fromkeys(getattr(each, setting) for each in attacks))
    if len(values) > 1:
        raise ValueError(
            f"All attacks must have the same {setting}. Received: "
            f"{', '.join(map(repr, values))}.{hint}"
        )

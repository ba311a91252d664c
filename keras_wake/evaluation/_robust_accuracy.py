"""Robust accuracy under one attack."""

import os
from collections.abc import Sequence
from typing import Any

from keras_wake.attacks import Attack
from keras_wake.evaluation._attack_lists import named
from keras_wake.evaluation._evaluate import evaluate
from keras_wake.evaluation._evaluate import Options
from keras_wake.evaluation.report import RobustnessReport


def robust_accuracy(
    classifier: Any,
    data: Any,
    attack: Attack,
    batch_size: int = 128,
    seed: int = 0,
    state: str | os.PathLike | None = None,
    return_images: bool = False,
    class_names: Sequence[str] | None = None,
    checks: bool = True,
    verbose: int = 1,
) -> RobustnessReport:
    """Robust accuracy under a plain attack, such as PGD.

    As `autoattack` with a list of this one attack: the same report, checks
    and file to go on from. Unlike `WakeModel.evaluate`, which attacks every
    image, it leaves those alone that are misclassified already, so that
    robust accuracy is never above clean accuracy.

    Args:
        classifier: Built `keras.Model` that returns logits (batch, K).
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: What makes the adversarial images.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`. Those of
            an attack of your own that is no `StagedAttack` also depend on the
            batch.
        state: File to go on from and to write. Defaults to `None`: none.
        return_images: Whether the report keeps the adversarial images.
            Defaults to `False`.
        class_names: K names. Defaults to the class numbers.
        checks: Whether to look for signs that the number is too high.
            Defaults to `True`.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line. Defaults
            to `1`.

    Returns:
        A `RobustnessReport`.

    Raises:
        TypeError, ValueError: As `autoattack`.

    Example:

    ```python
    report = keras_wake.evaluation.robust_accuracy(
        classifier, test, keras_wake.attacks.PGD(steps=20)
    )
    print(report.robust_accuracy, report.robust_interval)
    ```
    """
    options = Options(
        version="custom",
        batch_size=batch_size,
        seed=seed,
        state=state,
        return_images=return_images,
        class_names=class_names,
        checks=checks,
        verbose=verbose,
    )
    if not isinstance(attack, Attack):
        raise TypeError(
            "`attack` must be an attack such as `keras_wake.attacks.PGD()`. "
            f"Received: attack={attack!r}."
        )
    return evaluate(classifier, data, named([attack]), options)

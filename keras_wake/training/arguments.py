"""Checks of what `WakeModel` and its `compile` are given."""

from typing import Any

from keras_wake.attacks import Attack
from keras_wake.attacks import PGD
from keras_wake.objectives import Objective
from keras_wake.schedules import Schedule


def check_attacks(
    attack: Attack | None, eval_attack: Attack | None, objective: Objective
) -> tuple[Attack | None, Attack]:
    """Checks both attacks, and fills in what they leave open.

    Args:
        attack: Of the training step.
        eval_attack: Of `evaluate`; `None` for PGD in the same threat model.
        objective: Gives the loss that `attack` ascends where it has none.

    Returns:
        Both attacks as the model uses them.

    Raises:
        TypeError: If one is no attack.
        ValueError: If the objective needs an attack and there is none, or if
            their bounds differ.
    """
    for name, value in (("attack", attack), ("eval_attack", eval_attack)):
        if not isinstance(value, (Attack, type(None))):
            raise TypeError(
                f"`{name}` must be an attack such as "
                f"`keras_wake.attacks.PGD()`. Received: {name}={value!r}."
            )
    if attack is None and "adversarial" in objective.inputs:
        raise ValueError(
            f"The objective {objective.name!r} trains on adversarial images "
            "and needs an attack. Received: attack=None."
        )
    if eval_attack is None:
        eval_attack = PGD.for_evaluation(PGD() if attack is None else attack)
    if attack is None:
        return None, eval_attack
    if attack.bounds != eval_attack.bounds:
        raise ValueError(
            "`attack` and `eval_attack` must have the same bounds, those of "
            f"the images. Received: {attack.bounds} and {eval_attack.bounds}."
        )
    return attack.for_objective(objective), eval_attack


def check_schedule(schedule: Any) -> Schedule | None:
    """Refuses what is no schedule.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(schedule, (Schedule, type(None))):
        raise TypeError(
            "`schedule` must be a `DistillationRamp`, an `AdaptiveRamp` or "
            f"None. Received: schedule={schedule!r}."
        )
    return schedule


def check_no_loss(loss: Any, loss_weights: Any) -> None:
    """Refuses a loss in `compile`: it follows from the objective.

    Raises:
        ValueError: If one is given, or weights for several.
    """
    if loss is not None:
        raise ValueError(
            "WakeModel computes its own loss from its objective. "
            f"Received: loss={loss!r}. Leave it out, or pass "
            "`WakeModel(..., objective=)`."
        )
    if loss_weights is not None:
        raise ValueError(
            "`loss_weights` has no use in WakeModel, which has one loss. "
            f"Received: loss_weights={loss_weights!r}."
        )

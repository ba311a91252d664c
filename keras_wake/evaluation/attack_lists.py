"""Lists of attacks: the published ones, and what users pass.

A list is a dictionary from the name of an attack in the report to the attack.
"""

from collections.abc import Sequence
from typing import Any

from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import Square
from keras_wake.attacks import ThreatModel
from keras_wake.utils import validate

Bounds = tuple[float, float]

VERSIONS = ("standard", "rand")
_EOT_SAMPLES = 20


def published(
    version: str,
    norm: str | None,
    epsilon: float | None,
    bounds: Bounds | None,
) -> dict[str, Attack]:
    """The attacks of a version of AutoAttack, with their published settings.

    Raises:
        ValueError: If the three do not make a threat model.
    """
    threat = without_none(norm=norm, epsilon=epsilon, bounds=bounds)
    if version == "rand":
        return named(
            [
                APGD(loss=loss, eot_samples=_EOT_SAMPLES, **threat)
                for loss in ("cross_entropy", "dlr")
            ]
        )
    return named(
        [
            APGD(loss="cross_entropy", **threat),
            APGD(loss="dlr_targeted", **threat),
            FAB(**threat),
            Square(**threat),
        ]
    )


def without_none(**settings: Any) -> dict[str, Any]:
    """The settings that are given, so that an attack adds its defaults."""
    return {k: v for k, v in settings.items() if v is not None}


def attack_list(
    version: str,
    attacks: Sequence[Attack] | None,
    norm: str | None,
    epsilon: float | None,
    bounds: Bounds | None,
) -> tuple[dict[str, Attack], str]:
    """The attacks to run, and what their list is called.

    Raises:
        TypeError, ValueError: For arguments that contradict each other.
    """
    validate.one_of(
        VERSIONS,
        hint="For a list of your own, pass `attacks=`.",
        version=version,
    )
    if attacks is None:
        return published(version, norm, epsilon, bounds), version
    listed = named(attacks)
    first = attacks[0]
    wanted = ThreatModel(
        first.norm if norm is None else norm,
        first.epsilon if epsilon is None else epsilon,
        first.bounds if bounds is None else bounds,
    )
    for attack in attacks:
        for name, given in (
            ("norm", norm),
            ("epsilon", epsilon),
            ("bounds", bounds),
        ):
            value = getattr(wanted, name)
            if given is not None and getattr(attack, name) != value:
                raise ValueError(
                    f"`{name}` must be that of the attacks, or be left out. "
                    f"Received: {name}={value!r}, and {attack!r}."
                )
    radii = list(dict.fromkeys(attack.epsilon for attack in attacks))
    if len(radii) > 1:
        raise ValueError(
            "All attacks must have the same epsilon. Received: "
            f"{', '.join(map(repr, radii))}. For several radii there is "
            "`keras_wake.evaluation.epsilon_sweep`."
        )
    return listed, "custom"


def named(
    attacks: Sequence[Attack], argument: str = "attacks"
) -> dict[str, Attack]:
    """Attacks by their names, no two of which are the same.

    Raises:
        TypeError: For what is no attack.
        ValueError: For an empty list, or different norms or bounds.
    """
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
    for setting in ("norm", "bounds"):
        values = list(dict.fromkeys(getattr(a, setting) for a in attacks))
        if len(values) > 1:
            raise ValueError(
                f"All attacks must have the same {setting}. Received: "
                f"{', '.join(map(repr, values))}."
            )
    found: dict[str, Attack] = {}
    for attack in attacks:
        name, count = attack.name, 1
        while name in found:
            count += 1
            name = f"{attack.name} ({count})"
        found[name] = attack
    return found

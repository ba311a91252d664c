"""Lists of attacks: the published ones, and what users pass."""

import functools
from collections.abc import Sequence
from typing import Any

from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.attacks import ThreatModel
from keras_wake.evaluation._run import NamedAttack
from keras_wake.utils import validate

VERSIONS = ("standard", "rand")
_EOT_SAMPLES = 20

_APGD_NAMES = {
    "cross_entropy": "APGD-CE",
    "dlr": "APGD-DLR",
    "dlr_targeted": "APGD-T",
}


def published(
    version: str,
    norm: str | None,
    epsilon: float | None,
    bounds: tuple[float, float] | None,
) -> tuple[NamedAttack, ...]:
    """The attacks of a version of AutoAttack, with their published settings.

    The same objects for the same arguments: what was compiled for them is
    used again.

    Raises:
        ValueError: For what is no threat model.
    """
    threat = threat_model(norm, epsilon, bounds)
    return _published(version, threat.norm, threat.epsilon, threat.bounds)


def threat_model(
    norm: str | None, epsilon: float | None, bounds: Any
) -> ThreatModel:
    """The threat model of an evaluation; None stands for a default."""
    given = {"norm": norm, "epsilon": epsilon, "bounds": bounds}
    return ThreatModel(**{k: v for k, v in given.items() if v is not None})


@functools.lru_cache(maxsize=32)
def _published(
    version: str, norm: str, epsilon: float, bounds: tuple[float, float]
) -> tuple[NamedAttack, ...]:
    threat: dict[str, Any] = {
        "norm": norm,
        "epsilon": epsilon,
        "bounds": bounds,
    }
    attacks: list[Attack]
    if version == "rand":
        attacks = [
            APGD(loss=loss, eot_samples=_EOT_SAMPLES, **threat)
            for loss in ("cross_entropy", "dlr")
        ]
    else:
        attacks = [
            APGD(loss="cross_entropy", **threat),
            APGD(loss="dlr_targeted", **threat),
            FAB(**threat),
            Square(**threat),
        ]
    return tuple(named(attacks))


def attack_list(
    version: str,
    attacks: Sequence[Attack] | None,
    norm: str | None,
    epsilon: float | None,
    bounds: tuple[float, float] | None,
) -> tuple[list[NamedAttack], str]:
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
        return list(published(version, norm, epsilon, bounds)), version
    listed = named(attacks)
    first = listed[0].attack
    wanted = threat_model(
        norm or first.norm,
        first.epsilon if epsilon is None else epsilon,
        first.bounds if bounds is None else bounds,
    )
    threat: dict[str, Any] = {
        "norm": norm and wanted.norm,
        "epsilon": None if epsilon is None else wanted.epsilon,
        "bounds": None if bounds is None else wanted.bounds,
    }
    for each in listed:
        for name, value in threat.items():
            own = getattr(each.attack, name)
            if value is not None and own != value:
                raise ValueError(
                    f"`{name}` must be that of the attacks, or be left out. "
                    f"Received: {name}={value!r}, and {each.attack!r}."
                )
    radii = list(dict.fromkeys(each.attack.epsilon for each in listed))
    if len(radii) > 1:
        raise ValueError(
            "All attacks must have the same epsilon. Received: "
            f"{', '.join(map(repr, radii))}. For several radii there is "
            "`keras_wake.evaluation.epsilon_sweep`."
        )
    return listed, "custom"


def named(
    attacks: Sequence[Any], argument: str = "attacks"
) -> list[NamedAttack]:
    """Attacks with names, no two of which are the same.

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
    for name in ("norm", "bounds"):
        values = list(dict.fromkeys(getattr(a, name) for a in attacks))
        if len(values) > 1:
            raise ValueError(
                f"All attacks must have the same {name}. Received: "
                f"{', '.join(map(repr, values))}."
            )
    found: list[NamedAttack] = []
    for attack in attacks:
        name = _name(attack)
        count = sum(other.name.split(" (")[0] == name for other in found)
        found.append(
            NamedAttack(f"{name} ({count + 1})" if count else name, attack)
        )
    return found


def _name(attack: Attack) -> str:
    if isinstance(attack, APGD):
        return _APGD_NAMES[attack.loss]
    if type(attack) is FAB:
        return "FAB-T"
    if isinstance(attack, PGD) and type(attack) is PGD:
        return f"PGD-{attack.steps}"
    return type(attack).__name__

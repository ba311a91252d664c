"""The settings of a run: which of them a method uses, and their defaults.

This imports no framework, so that tables of many runs are made quickly.
"""

import math
from collections.abc import Mapping
from typing import Any

from runner.methods import METHODS

# The settings of runs that are older than a flag.
BEFORE = {"precision": "float32", "batch_norm": "average"}
TEACHER_FILES = ("robust_teacher_sha256", "standard_teacher_sha256")


def unused(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings that this method, or this model, ignores."""
    method, model = METHODS[settings["method"]], "preact_resnet18"
    averaging = method.teacher in ("wake", "adaptive")
    steps = not method.single_step and method.objective != "standard"
    used = (
        (("decay", "ema_warmup", "batch_norm"), method.averages),
        (("peak", "final"), averaging),
        (("temperature",), averaging or method.teacher == "kdswa"),
        (("start_epoch", "end_epoch"), method.teacher == "wake"),
        (("patience", "ramp_epochs"), method.teacher == "adaptive"),
        (("latest_start",), method.teacher == "adaptive"),
        (("robust_weight", "standard_weight"), method.teacher == "kdswa"),
        (("swa_start", *TEACHER_FILES), method.teacher == "kdswa"),
        (("beta",), method.objective in ("trades", "mart")),
        (("gamma",), method.awp),
        (("steps", "step_size"), steps),
        (("attack_dtype",), method.objective != "standard"),
        # Runs that are older than the choice of a model have none.
        (("width",), settings.get("model", model) == model),
    )
    return [name for names, is_used in used if not is_used for name in names]


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, also of an older one; None for ignored ones."""
    settings = {**BEFORE, **settings}
    ignored = dict.fromkeys(unused(settings))
    return {k: ignored.get(k, v) for k, v in settings.items()}


def usual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the settings that follow from other settings.

    These are `method`, `epochs`, `norm` and `epsilon`, and `start_epoch` if it
    was given.
    """
    method, epochs = METHODS[settings["method"]], settings["epochs"]
    start = settings.get("start_epoch")
    start = epochs // 2 if start is None else start
    return {
        "label_smoothing": method.label_smoothing,
        "cutmix": method.cutmix,
        "beta": 5.0 if method.objective == "mart" else 6.0,
        "gamma": 0.005 if method.objective == "trades" else 0.01,
        "step_size": settings["epsilon"]
        / (4 if settings["norm"] == "linf" else 8),
        # As in `DistillationRamp.for_epochs`.
        "start_epoch": epochs // 2,
        "end_epoch": max(start + 1, round(0.55 * epochs)),
        "ramp_epochs": max(1, round(0.05 * epochs)),
        "swa_start": max(1, round(55 / 200 * epochs)),
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How the settings of a recorded run differ: "seed: 0 there, 1 here"."""
    there, here = comparable(there), comparable(here)
    for name in TEACHER_FILES:
        # Older runs of KDSWA did not say which teachers they had.
        there.setdefault(name, here.get(name))
    return "; ".join(
        f"{key}: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted({*there, *here})
        if not same(there.get(key), here.get(key))
    )


def same(value: Any, other: Any) -> bool:
    """Whether two settings are equal, apart from rounding of numbers."""
    if {type(value), type(other)} <= {int, float}:
        return math.isclose(value, other, rel_tol=1e-9)
    return value == other

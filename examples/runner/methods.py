"""The methods that a run can train with, as data.

A method names an objective, an attack and teachers. `parts` makes the objects,
`flags` offers the name of the method, and the record of a run keeps that name.
"""

import dataclasses

# The log that says which epoch of the average is the best.
TEACHER_BEST_BY = "val_teacher_robust_accuracy"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of training; its summary is for `--help`."""

    summary: str
    # "at", "trades", "mart" or "standard".
    objective: str = "at"
    # FGSM-RS instead of PGD.
    single_step: bool = False
    # Weights are perturbed as well.
    awp: bool = False
    # "wake" (an average that the student learns from), "adaptive" (WAKE that
    # chooses its epochs by itself), "average" (one that it does not learn
    # from), "kdswa" (two pretrained networks), or None.
    teacher: str | None = None
    # Share of each label that goes to all classes.
    label_smoothing: float = 0.0
    # α of CutMix.
    cutmix: float | None = None

    @property
    def averages(self) -> bool:
        """Whether there is an average of the weights from the first epoch."""
        return self.teacher in ("wake", "adaptive", "average")

    @property
    def on_clean_images(self) -> bool:
        """Whether it is regular training, which is judged on clean images."""
        return self.objective == "standard"

    @property
    def best_by(self) -> str:
        """The log that says which epoch of the student is the best."""
        return f"val_{'robust_' * (not self.on_clean_images)}accuracy"

    @property
    def stopped_by(self) -> str:
        """The log that early stopping follows: that of the saved network."""
        return TEACHER_BEST_BY if self.averages else self.best_by


METHODS = {
    "wake": Method("AT distilled from its own average", teacher="wake"),
    "wake-adaptive": Method(
        "WAKE that freezes the teacher at its peak", teacher="adaptive"
    ),
    "at": Method("adversarial training with PGD"),
    "kdswa": Method(
        "AT distilled from two pretrained networks, weights averaged",
        teacher="kdswa",
    ),
    "label-smoothing": Method("AT with smoothed labels", label_smoothing=0.2),
    "fast-at": Method("AT in a single step, FGSM-RS", single_step=True),
    "trades": Method("TRADES", "trades"),
    "trades-wake": Method("TRADES with WAKE", "trades", teacher="wake"),
    "trades-wake-adaptive": Method(
        "TRADES with adaptive WAKE", "trades", teacher="adaptive"
    ),
    "trades-kdswa": Method("TRADES with KDSWA", "trades", teacher="kdswa"),
    "mart": Method("MART", "mart"),
    "mart-wake": Method("MART with WAKE", "mart", teacher="wake"),
    "mart-wake-adaptive": Method(
        "MART with adaptive WAKE", "mart", teacher="adaptive"
    ),
    "awp": Method("AT with adversarial weight perturbation", awp=True),
    "awp-wake": Method("AWP with WAKE", awp=True, teacher="wake"),
    "trades-awp": Method("TRADES with AWP", "trades", awp=True),
    "trades-awp-wake": Method(
        "TRADES with AWP and WAKE", "trades", awp=True, teacher="wake"
    ),
    "mart-awp": Method("MART with AWP", "mart", awp=True),
    "cutmix": Method(
        "AT on CutMix images, weights averaged", teacher="average", cutmix=1.0
    ),
    "cutmix-wake": Method("WAKE on CutMix images", teacher="wake", cutmix=1.0),
    "standard": Method("training on clean images", "standard"),
}


def describe() -> str:
    """All methods, a line each, for `--help`."""
    width = max(map(len, METHODS))
    return "\n".join(f"  {k:{width}}  {m.summary}" for k, m in METHODS.items())

"""The interface of an objective: which images it sees, and its loss."""

from typing import Any


class Objective:
    """What the student minimises besides distillation.

    Subclasses set `inputs`, the images that the student is shown in training
    mode in each step: `"clean"`, `"adversarial"` or both. The last of them is
    the one that distillation compares student and teacher on. `attack_loss`
    is what an attack that leaves it open ascends.
    """

    name = "objective"
    inputs: tuple[str, ...] = ("adversarial",)
    # What the attack of a training step ascends, unless it says so itself:
    # "cross_entropy", or "kl" for the divergence from the clean logits.
    attack_loss = "cross_entropy"

    def loss(self, labels: Any, logits: dict[str, Any]) -> Any:
        """One loss value per sample.

        Args:
            labels: Float tensor (batch, K), one-hot or soft.
            logits: Float tensors (batch, K), one for each name in `inputs`.

        Returns:
            Float32 tensor (batch,).
        """
        raise TypeError(
            f"`{type(self).__name__}` must define "
            "`loss(labels, logits)`, one value per sample."
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        """Makes the objective again from `get_config()`."""
        return cls(**config)

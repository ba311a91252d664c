"""The interface of an objective: which images it sees, and its loss."""

from typing import Any

from keras import ops

INPUTS = ("clean", "adversarial")


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


def check_inputs(objective: Objective) -> None:
    """Refuses `inputs` that name no images, or the same ones twice."""
    inputs = objective.inputs
    if (
        not isinstance(inputs, (tuple, list))
        or not inputs
        or any(name not in INPUTS for name in inputs)
        or len(set(inputs)) < len(inputs)
    ):
        raise ValueError(
            f"`{type(objective).__name__}.inputs` must be a tuple of the "
            'images that its loss sees: `("clean",)`, `("adversarial",)` or '
            '`("clean", "adversarial")`. Received: '
            f"inputs={inputs!r}."
        )


def losses_of(objective: Objective, labels: Any, logits: Any) -> Any:
    """`objective.loss`, checked when the step is traced.

    A loss of another shape than (batch,) would be broadcast against those of
    distillation and against the weights of the samples: the sum is then over
    batch² values, and nothing fails.

    Args:
        objective: An `Objective`.
        labels: Float tensor (batch, K).
        logits: Float tensors (batch, K), one for each of its inputs.

    Returns:
        Tensor (batch,).

    Raises:
        ValueError: If the loss is of another shape, or reads images that the
            objective does not declare.
    """
    kind = type(objective).__name__
    try:
        losses = objective.loss(labels, logits)
    except KeyError as error:
        name = error.args[0] if error.args else None
        if name in logits or name not in INPUTS:
            raise
        raise ValueError(
            f"The loss of the objective `{kind}` reads the {name} logits, "
            f"and its `inputs` do not name them. Received: inputs="
            f"{objective.inputs!r}. Set `inputs` to all that the loss reads."
        ) from error
    shape = getattr(losses, "shape", None)
    sizes = None if shape is None else tuple(shape)
    batch = labels.shape[0]
    if (
        sizes is None
        or len(sizes) != 1
        or (None not in (*sizes, batch) and sizes[0] != batch)
    ):
        received = (
            f"an object of type {type(losses).__name__}"
            if sizes is None
            else f"shape {sizes}"
        )
        raise ValueError(
            f"The loss of the objective `{kind}` must have one value per "
            f"sample, shape ({'batch' if batch is None else batch},). "
            f"Received: {received}. Reduce it over the classes, "
            "`ops.sum(..., axis=-1)`, and not over the batch."
        )
    return ops.cast(losses, "float32")

"""The interface of an objective: which images it sees, and its loss."""

import keras
from keras import ops

from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor

INPUTS = ("clean", "adversarial")


class WeightPerturbation:
    """What an objective did to the weights in a step. This one did nothing."""

    def after_forward_pass(self) -> None:
        """Called between the forward pass of the update and the optimizer.

        Only on backends where an assignment in the forward pass lasts.
        """

    def restore(self) -> None:
        """Takes the perturbation back, after the update."""


class Objective:
    """What the student minimises besides distillation.

    Subclasses define `loss`, and set `inputs`: the images that the student
    sees in training mode in each step, `"clean"`, `"adversarial"` or both.
    Distillation compares student and teacher on the last of them.
    `attack_loss` is what an attack without a `loss` of its own ascends.
    """

    name = "objective"
    inputs: tuple[str, ...] = ("adversarial",)
    # What the attack of a training step ascends, unless it says so itself:
    # "cross_entropy", or "kl" for the divergence from the clean logits.
    attack_loss = "cross_entropy"

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
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

    def check_optimizer(self, optimizer: str | keras.Optimizer) -> None:
        """Raises for an optimizer that this objective cannot work with.

        Args:
            optimizer: What `WakeModel.compile` was given.
        """

    def perturb_weights(
        self,
        network: keras.Model,
        images: dict[str, Tensor],
        labels: Tensor,
        sample_weight: Tensor | None = None,
    ) -> WeightPerturbation:
        """Moves the student's weights for the update that follows.

        Called in each step, after the attack. Moves nothing by default.

        Args:
            network: The student.
            images: Float tensors (batch, ...), one for each name in `inputs`.
            labels: Float tensor (batch, K).
            sample_weight: Float tensor (batch,), or `None`.

        Returns:
            A `WeightPerturbation`, whose `restore()` is called after the
            update.
        """
        return WeightPerturbation()

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: Config) -> "Objective":
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


def losses_of(
    objective: Objective, labels: Tensor, logits: dict[str, Tensor]
) -> Tensor:
    """`objective.loss`, with its shape checked.

    A loss of shape (batch, 1), say, would be broadcast against the sample
    weights to batch² values, and nothing would fail.

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
    received = f"an object of type {type(losses).__name__}"
    batch, sizes = labels.shape[0], ()
    if hasattr(losses, "shape"):
        sizes = tuple(losses.shape)
        received = f"shape {sizes}"
    known = None not in (batch, *sizes)
    if len(sizes) != 1 or (known and sizes != (batch,)):
        raise ValueError(
            f"The loss of the objective `{kind}` must have one value per "
            f"sample, shape ({'batch' if batch is None else batch},). "
            f"Received: {received}. Reduce it over the classes, "
            "`ops.sum(..., axis=-1)`, and not over the batch."
        )
    return ops.cast(losses, "float32")

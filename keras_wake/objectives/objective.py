"""The interface of an objective: which images it sees, and its loss."""

import keras
from keras import ops

from keras_wake.utils.configured import Configured
from keras_wake.utils.types import Tensor

INPUTS = ("clean", "adversarial")
_ALLOWED_INPUTS = ["clean"], ["adversarial"], ["adversarial", "clean"]


class WeightPerturbation:
    """What an objective did to the weights in a step. This one did nothing."""

    def after_forward_pass(self) -> None:
        """Called between the forward pass of the update and the optimizer.

        Not on JAX, which drops what a layer assigns in the forward pass.
        """

    def restore(self) -> None:
        """Takes the perturbation back, after the update."""


class Objective(Configured):
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
        """Raises for an argument of `compile` that does not suit."""

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


def check_inputs(objective: Objective) -> None:
    """Refuses `inputs` that name no images, or the same ones twice."""
    inputs = objective.inputs
    is_list = isinstance(inputs, (tuple, list))
    if not is_list or sorted(inputs, key=str) not in _ALLOWED_INPUTS:
        raise ValueError(
            f"`{type(objective).__name__}.inputs` must be a tuple of the "
            'images that its loss sees: `("clean",)`, `("adversarial",)` or '
            f'`("clean", "adversarial")`. Received: inputs={inputs!r}.'
        )


def losses_of(
    objective: Objective, labels: Tensor, logits: dict[str, Tensor]
) -> Tensor:
    """`objective.loss`, float32 (batch,), with its shape checked.

    A loss of shape (batch, 1), say, would be broadcast against the sample
    weights to batch² values, and nothing would fail.
    """
    kind = type(objective).__name__
    try:
        losses = objective.loss(labels, logits)
    except KeyError as error:
        missing = (set(INPUTS) - set(logits)) & set(error.args)
        if not missing:
            raise
        raise ValueError(
            f"The loss of the objective `{kind}` reads the {missing.pop()} "
            "logits, and its `inputs` do not name them. Received: inputs="
            f"{objective.inputs!r}. Set `inputs` to all that the loss reads."
        ) from error
    batch = labels.shape[0]
    shape = tuple(getattr(losses, "shape", ()))
    known = None not in (batch, *shape)
    if len(shape) != 1 or (known and shape != (batch,)):
        raise ValueError(
            f"The loss of the objective `{kind}` must have one value per "
            f"sample, shape ({'batch' if batch is None else batch},). "
            f"Received: shape {shape}, of type {type(losses).__name__}. Reduce "
            "it over the classes, `ops.sum(..., axis=-1)`, and not over the "
            "batch."
        )
    return ops.cast(losses, "float32")

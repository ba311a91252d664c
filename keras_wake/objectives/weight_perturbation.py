"""Adversarial weight perturbation, around any other objective."""

import keras
from keras import ops

from keras_wake import backend
from keras_wake.backend import numerics
from keras_wake.objectives.objective import losses_of
from keras_wake.objectives.objective import Objective
from keras_wake.objectives.objective import WeightPerturbation
from keras_wake.utils import validate
from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class AWP(Objective):
    """Adversarial weight perturbation (Wu et al. 2020) of an objective.

    In each step, once the adversarial images are found, every kernel w moves
    against the student,

        v = γ · ‖w‖ · ∇_w L / ‖∇_w L‖,    L the objective on this batch;

    the update is computed at w + v, and v is taken back after it. Kernels are
    the trainable variables with at least two axes and `"kernel"` in their
    name, as in Keras's dense, convolution and attention layers. All others
    stay as they are: biases (those of attention have two axes), batch norm,
    embeddings and class tokens. Images, loss and logs are those of the
    objective within. L has no distillation term.

    Args:
        objective: `"at"`, `"trades"`, `"mart"` or an `Objective`. Defaults to
            `"at"`.
        gamma: γ ≥ 0, the size of v relative to w. Defaults to `0.01`, the
            published one for AT; that for TRADES is 0.005.

    Raises:
        ValueError: If `gamma` is negative or no objective has that name; in
            `fit`, if the classifier has no kernel.

    Example:

    >>> AWP("trades", gamma=0.005).inputs
    ('clean', 'adversarial')
    """

    name = "awp"

    def __init__(
        self, objective: str | Objective = "at", gamma: float = 0.01
    ) -> None:
        # Imported late: the table of names lists this class as well.
        from keras_wake import objectives

        self.objective = objectives.get(objective)
        if isinstance(self.objective, AWP):
            raise ValueError(
                "`objective` must not be an AWP itself. Received: "
                f"objective={objective!r}."
            )
        self.gamma = validate.not_negative(gamma=gamma)
        self.inputs = self.objective.inputs
        self.attack_loss = self.objective.attack_loss

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
        """The loss of the objective within, float32 (batch,)."""
        return self.objective.loss(labels, logits)

    def check_optimizer(self, optimizer: str | keras.Optimizer) -> None:
        """Refuses `use_ema=True`."""
        if getattr(optimizer, "use_ema", False):
            raise ValueError(
                "`use_ema=True` would average the weights that `AWP` has "
                "perturbed. Pass `use_ema=False` to the optimizer, and average "
                "with the callback `keras_wake.EMATeacher`. Received: "
                f"optimizer={type(optimizer).__name__}(use_ema=True)."
            )

    def perturb_weights(
        self,
        network: keras.Model,
        images: dict[str, Tensor],
        labels: Tensor,
        sample_weight: Tensor | None = None,
    ) -> WeightPerturbation:
        """Adds v to each kernel w of the student."""
        kernels = _kernels(network.trainable_variables)
        # The pass that finds v must not change batch norm or random states.
        others = [
            (variable, ops.copy(variable))
            for variable in network.variables
            if all(variable is not kernel for kernel in kernels)
        ]
        reassigned: dict[int, Tensor] = {}

        def total_loss(values: list[Tensor]) -> Tensor:
            state = [*zip(kernels, values, strict=True), *others]
            with keras.StatelessScope(state_mapping=state) as scope:
                before = [scope.get_current_value(k) for k in kernels]
                logits = {
                    name: network(batch, training=True)
                    for name, batch in images.items()
                }
                for kernel, old in zip(kernels, before, strict=True):
                    new = scope.get_current_value(kernel)
                    if new is not old:
                        reassigned[id(kernel)] = new
            losses = losses_of(self.objective, labels, logits)
            if sample_weight is not None:
                losses = losses * sample_weight
            return ops.sum(losses)

        values = [ops.copy(kernel) for kernel in kernels]
        gradients = backend.gradient(total_loss, values)
        steps = []
        moves = zip(kernels, values, gradients, strict=True)
        for kernel, value, gradient in moves:
            gradient = backend.global_sum(numerics.finite(gradient))
            axes = tuple(range(len(gradient.shape)))
            direction = numerics.unit_l2(gradient, axes)
            # `ops.norm` takes at most two axes.
            size = ops.sqrt(ops.sum(ops.square(value)))
            step = self.gamma * size * direction
            kernel.assign_add(step)
            steps.append((kernel, step))
        return _MovedKernels(steps, reassigned)

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {
            "objective": keras.saving.serialize_keras_object(self.objective),
            "gamma": self.gamma,
        }

    @classmethod
    def from_config(cls, config: Config) -> "AWP":
        """Makes the objective again from `get_config()`."""
        within = keras.saving.deserialize_keras_object(config["objective"])
        return cls(within, config["gamma"])


class _MovedKernels(WeightPerturbation):
    """Kernels w that were moved by v, and how to take v back.

    `SpectralNormalization`, for example, assigns a new kernel in each forward
    pass, so subtracting v after the update would not give w back. For such a
    kernel, w becomes what its layer made of w, plus what the optimizer added
    to what the layer made of w + v.
    """

    def __init__(self, steps: list[tuple], reassigned: dict) -> None:
        self.steps = steps
        # What layers made of w, by `id` of the kernel.
        self._reassigned = reassigned
        self._before_update: dict[int, Tensor] = {}

    def after_forward_pass(self) -> None:
        """Reads what layers made of w + v."""
        self._before_update = {
            id(kernel): ops.copy(kernel)
            for kernel, _ in self.steps
            if id(kernel) in self._reassigned
        }

    def restore(self) -> None:
        """Takes v back, after the update."""
        for kernel, step in self.steps:
            key = id(kernel)
            if key in self._before_update:
                update = kernel - self._before_update[key]
                kernel.assign(self._reassigned[key] + update)
            else:
                kernel.assign_sub(step)
            if kernel.constraint is not None:
                # The optimizer has applied it to w + v.
                kernel.assign(kernel.constraint(kernel))
        # Their tensors must not outlive the step.
        self.steps, self._reassigned, self._before_update = [], {}, {}


def _kernels(variables: list[keras.Variable]) -> list[keras.Variable]:
    """The kernels among the trainable variables; refuses to find none."""
    kernels = [v for v in variables if "kernel" in v.name and len(v.shape) > 1]
    if variables and not kernels:
        raise ValueError(
            "`AWP` moves kernels, trainable variables of at least two axes "
            "whose name contains 'kernel', and the classifier has none. "
            f"Received: {[v.path for v in variables[:5]]}. In a layer of your "
            'own, name them: `self.add_weight(..., name="kernel")`.'
        )
    return kernels

"""Adversarial weight perturbation, around any other objective."""

from typing import Any

import keras
from keras import ops

from keras_wake.objectives.objective import Objective
from keras_wake.utils import validate


@keras.saving.register_keras_serializable(package="keras_wake")
class AWP(Objective):
    """Adversarial weight perturbation (Wu et al. 2020) of an objective.

    In each step, once the adversarial images are found, every kernel w moves
    against the student,

        v = γ · ‖w‖ · ∇_w L / ‖∇_w L‖,    L the objective on this batch;

    the update is computed at w + v, and v is taken back after it. Kernels are
    the trainable variables of at least two axes whose name contains
    `"kernel"`, as those of Keras's dense, convolution and attention layers
    do. All others stay as they are: biases, also those of attention, which
    have two axes; batch norm; embeddings and class tokens. Images, loss and
    logs are those of the objective within. A distillation term takes no part
    in L.

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

    def __init__(self, objective: Any = "at", gamma: float = 0.01) -> None:
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

    def loss(self, labels: Any, logits: dict[str, Any]) -> Any:
        """The loss of the objective within, float32 (batch,)."""
        return self.objective.loss(labels, logits)

    def moves(self, variables: list[Any]) -> list[Any]:
        """The kernels among the trainable variables of a classifier.

        Raises:
            ValueError: If there are none, so that nothing would be perturbed.
        """
        kernels = [
            v for v in variables if "kernel" in v.name and len(v.shape) > 1
        ]
        if variables and not kernels:
            names = ", ".join(repr(v.path) for v in variables[:5])
            raise ValueError(
                "`AWP` moves kernels, trainable variables of at least two "
                "axes whose name contains 'kernel', and the classifier has "
                f"none. Received: variables {names}"
                f"{', …' if len(variables) > 5 else ''}. In a layer of your "
                'own, name them: `self.add_weight(..., name="kernel")`.'
            )
        return kernels

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "objective": keras.saving.serialize_keras_object(self.objective),
            "gamma": self.gamma,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AWP":
        """Makes the objective again from `get_config()`."""
        within = keras.saving.deserialize_keras_object(config["objective"])
        return cls(within, config["gamma"])


class ReassignedKernels:
    """Kernels that a layer assigns in its training pass, within one step.

    `SpectralNormalization` for example replaces its kernel in the forward
    pass, so subtracting v afterwards does not give w back. Noted for each such
    variable: the kernel that the layer makes of w, in the pass in which v is
    computed (`record_unperturbed`); and the one that it makes of w + v, in the
    pass of the update (`record_perturbed`). After the update, w is the first
    plus what the optimizer has added to the second (`restore`).
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew, for the next step."""
        # All by `id` of the variable.
        self._variables: dict[int, Any] = {}
        self._unperturbed: dict[int, Any] = {}
        self._perturbed: dict[int, Any] = {}

    def record_unperturbed(
        self, variables: Any, before: Any, after: Any
    ) -> None:
        """Finds them, by their values before and after a pass with w."""
        self.forget()
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is not old:
                self._variables[id(variable)] = variable
                self._unperturbed[id(variable)] = new

    def record_perturbed(self) -> None:
        """Reads them between the pass with w + v and the optimizer."""
        self._perturbed = {
            key: ops.copy(variable) for key, variable in self._variables.items()
        }

    def restore(self, variable: Any) -> bool:
        """Sets a variable after the update; false if it is none of them."""
        key = id(variable)
        if key not in self._perturbed:
            return False
        update = variable - self._perturbed[key]
        variable.assign(self._unperturbed[key] + update)
        return True

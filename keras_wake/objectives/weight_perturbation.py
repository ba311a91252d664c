"""Adversarial weight perturbation, around any other objective."""

from typing import Any

import keras
from keras import ops

from keras_wake import _validate
from keras_wake.objectives.objective import Objective


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
        self.gamma = _validate.not_negative(gamma=gamma)
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

    `SpectralNormalization` for example divides its kernel by its norm, and
    so w + v, from which v cannot be subtracted any more. What the layer makes
    of w is put back instead, with what the optimizer has added.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew, for the next step."""
        # By `id` of a variable: it, what becomes of w, and of w + v.
        self._found: dict[int, list[Any]] = {}

    def note(self, variables: Any, before: Any, after: Any) -> None:
        """Finds them, by their values in a pass without perturbation."""
        self._found = {
            id(variable): [variable, now, None]
            for variable, value, now in zip(
                variables, before, after, strict=True
            )
            if now is not value
        }

    def read(self) -> None:
        """Reads them between the pass of the update and the optimizer."""
        for found in self._found.values():
            found[2] = ops.copy(found[0])

    def restore(self, variable: Any) -> bool:
        """Sets a variable after the update; false if it is none of them."""
        _, made, perturbed = self._found.get(id(variable), (None,) * 3)
        if perturbed is None:
            return False
        variable.assign(made + (variable - perturbed))
        return True

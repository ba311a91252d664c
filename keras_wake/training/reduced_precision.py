"""A copy of the student in reduced precision, for the attack of training.

An attack has most of the passes of a step, and needs only the direction of a
gradient. So it runs on a copy that computes in bfloat16, while the update keeps
the precision of the student. The values of the copy's own variables are not
used: every call takes those of the student at that moment.
"""

from typing import Any

import keras

from keras_wake.backend import keras_compat
from keras_wake.backend.layer_settings import layers_of
from keras_wake.training import teacher_copy
from keras_wake.utils import validate
from keras_wake.utils.types import Tensor

# Speed and robust accuracy were measured in these only.
ATTACK_DTYPES = (None, "bfloat16")
# Largest difference from the logits of the student, relative to the largest
# of them. Untrained networks of `kw.models` differ by 0.003 to 0.021.
_TOLERANCE = 0.1


class ReducedPrecisionCopy:
    """A function from images to logits: the student, in reduced precision.

    Its other attributes, such as `layers`, are those of the copy.

    Args:
        student: Checked `keras.Model`.
        dtype: What its layers compute in, such as `"bfloat16"`.
        bounds: Smallest and largest pixel value.

    Raises:
        ValueError: If there is no copy that computes the same in `dtype`.
    """

    def __init__(
        self, student: keras.Model, dtype: str, bounds: tuple[float, float]
    ) -> None:
        self._student = student
        for layer in keras_compat.flatten_layers(student):
            quantized = getattr(layer, "quantization_mode", None)
            is_module = isinstance(layer, keras.layers.TorchModuleWrapper)
            if is_module or quantized:
                raise ValueError(
                    "`attack_dtype` is for layers of Keras with weights in "
                    "floating point. A PyTorch module and a quantised layer "
                    "compute in a precision of their own. Pass "
                    f"attack_dtype=None. Received: attack_dtype={dtype!r} and "
                    f"the layer {layer.name!r} (of type "
                    f"{type(layer).__name__}) in {student.name!r}."
                )
        self._network = teacher_copy.copy_of(student, bounds)
        self._network.name = f"{student.name}_{dtype}"
        for layer in layers_of(self._network):
            layer.dtype_policy = keras.DTypePolicy(f"mixed_{dtype}")
        if not teacher_copy.compute_the_same(
            student, self._network, bounds, _TOLERANCE
        ):
            raise ValueError(
                f"In {dtype}, a copy of the classifier {student.name!r} with "
                "the same weights has other logits. Pass attack_dtype=None. "
                f"Received: attack_dtype={dtype!r}."
            )

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the student; an attack calls it with fixed values."""
        return self._student.variables

    def __getattr__(self, name: str) -> Any:
        if name == "_network":  # Not made yet.
            raise AttributeError(name)
        return getattr(self._network, name)

    def __call__(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Logits (batch, K) with the weights of the student."""
        pairs = zip(
            self._network.variables, self._student.variables, strict=True
        )
        values = [(own, other.value) for own, other in pairs]
        with keras.StatelessScope(state_mapping=values):
            return self._network(images, training=training)

    def bring_up_to_date(self, copied: tuple[keras.Variable, ...]) -> None:
        """Gives the copy the attributes that were set on the student since.

        Raises:
            ValueError: If the student has other variables than `copied`.
        """
        teacher_copy.bring_up_to_date(self._student, self._network, copied)
        # Frozen batch norm takes no statistics of the batch, even if an attack
        # calls the network in training mode.
        for own, other in zip(
            keras_compat.flatten_layers(self._student),
            keras_compat.flatten_layers(self._network),
            strict=True,
        ):
            other.trainable = own.trainable


def check_attack_for_copy(attack: object) -> None:
    """Refuses an attack that the copy would weaken.

    Raises:
        ValueError: If it ascends the KL divergence.
    """
    if getattr(attack, "loss", None) == "kl":
        raise ValueError(
            'An attack with `loss="kl"`, that of TRADES, ascends the '
            "difference of two outputs that are nearly equal, which bfloat16 "
            "rounds: it would be weaker without a word. Pass "
            'attack_dtype=None, or an attack with `loss="cross_entropy"`. '
            f"Received: {attack!r} and attack_dtype."
        )


def copy_in(
    dtype: str | None, student: keras.Model, bounds: tuple[float, float]
) -> ReducedPrecisionCopy | None:
    """The copy for an attack in `dtype`, or `None` to attack the student.

    Raises:
        ValueError: If `dtype` is not one of `ATTACK_DTYPES`, or there is no
            copy that computes the same in it.
    """
    dtype = validate.one_of(ATTACK_DTYPES, attack_dtype=dtype)
    if dtype is None:
        return None
    return ReducedPrecisionCopy(student, dtype, bounds)

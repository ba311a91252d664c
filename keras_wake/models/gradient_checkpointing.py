"""Networks that keep little for a gradient, and compute the rest once more."""

import dataclasses
from typing import Any

import keras

from keras_wake import backend
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class CheckpointedModel(keras.Model):
    """A network that computes its residual blocks once more for a gradient.

    It is the Functional model of the same arguments: the layers, the variables
    and their order are the same, and so are the files of weights. A pass that a
    gradient is taken of keeps what goes into each block, and nothing of what
    happens in it. A block ends at an `Add` layer.

    Args:
        inputs: As for `keras.Model`.
        outputs: As for `keras.Model`.
        name: As for `keras.Model`.
        **kwargs: As for `keras.Model`.

    Raises:
        ValueError: If there is no `Add` layer.
    """

    def __init__(
        self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self._parts = _parts(self)

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Tensor:
        """The logits, as `keras.Model.call`."""
        for block in self._parts.blocks:
            inputs = _without_keeping(block, inputs, bool(training))
        return self._parts.head(inputs, training=training)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The parts of a network; as no list, or Keras would save their layers.

    Attributes:
        blocks: From the images, or from an `Add` layer, to the next one.
        head: What follows. It is kept, because the gradient starts there.
    """

    blocks: list[keras.Model]
    head: keras.Model


def _parts(network: keras.Model) -> _Parts:
    adds = [each for each in network.layers if type(each) is keras.layers.Add]
    if not adds:
        raise ValueError(
            "Gradient checkpointing needs residual blocks, which end at an "
            f"`Add` layer. Received: {network.name!r}, which has none."
        )
    ends = [each.output for each in adds]
    starts = [network.input, *ends]
    blocks = [keras.Model(*pair) for pair in zip(starts, ends, strict=False)]
    return _Parts(blocks, keras.Model(starts[-1], network.output))


def _without_keeping(
    block: keras.Model, images: Tensor, training: bool
) -> Tensor:
    """`block(images)`, of which only the arguments are kept for a gradient.

    What the block updates, as batch norm does, is a result of the function that
    is called again. If it assigned to a variable, PyTorch and TensorFlow would
    do so twice, and JAX would lose the value.
    """
    trained = block.trainable_variables
    updated = block.non_trainable_variables

    def run(
        images: Tensor, weights: list[Tensor], others: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        pairs = zip([*trained, *updated], [*weights, *others], strict=True)
        with keras.StatelessScope(pairs) as scope:
            outputs = block(images, training=training)
        return outputs, [scope.get_current_value(v) for v in updated]

    weights = [keras.ops.convert_to_tensor(v) for v in trained]
    # The variables change before the second call.
    others = [backend.copy(v) for v in updated]
    outputs, values = backend.recomputed(run)(images, weights, others)
    if training:
        for variable, value in zip(updated, values, strict=True):
            variable.assign(value)
    return outputs

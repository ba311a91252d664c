"""Networks that keep little for a gradient, and compute the rest once more."""

import dataclasses
from typing import Any

import keras

from keras_wake import backend
from keras_wake.utils.types import Tensor


@keras.saving.register_keras_serializable(package="keras_wake")
class CheckpointedModel(keras.Model):
    """A network that computes its residual blocks once more for a gradient.

    Its layers, variables and files of weights are those of `keras.Model` with
    the same arguments. For a gradient, only the input of each block is kept,
    and none of the outputs of layers within it. A block ends at an `Add` layer.

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
        # Its layers cast the weights that they use. What it reads and writes
        # itself must not be rounded.
        self.dtype_policy = "float32"
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
    """The parts of a network.

    Keras would save the layers of an attribute that is a list, but not these.

    Attributes:
        blocks: From the images, or from an `Add` layer, to the next one.
        head: What follows the last block. The gradient starts there, so
            nothing would be saved by computing it once more.
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

    The function that is called twice returns what the block updates, such as
    the statistics of batch norm. If it assigned them to the variables, PyTorch
    and TensorFlow would update twice, and JAX would lose the values.
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
    # Copies, because the variables change before the second call.
    others = [backend.copy(v) for v in updated]
    outputs, values = backend.recomputed(run)(images, weights, others)
    if training:
        for variable, value in zip(updated, values, strict=True):
            variable.assign(value)
    return outputs

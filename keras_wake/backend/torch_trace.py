"""The forward pass of a network on PyTorch, traced for attacks.

An attack calls the network many times, and a small network spends most of that
time in Keras's Python code. So the PyTorch operations of one call are recorded,
and later calls repeat them without Keras. (`torch.compile` of the network
breaks its graph at each layer. Of the recorded operations, it was no faster on
a CPU.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import torch

from keras_wake.backend.layer_settings import PerModel
from keras_wake.utils.types import Tensor

_TRACED = PerModel()


class TracedForward:
    """A network whose calls in evaluation mode are traced.

    Its attributes are those of the network. A traced call changes no variable,
    and has gradients with respect to the images, not to the weights.
    """

    def __init__(self, reference: Callable) -> None:
        self._reference = reference
        # One for each shape and type of images.
        self._traced: dict[tuple, Callable] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reference(), name)

    def __call__(self, images: Tensor, training: bool = False) -> Tensor:
        network = self._reference()
        if training:
            return network(images, training=True)
        key = (tuple(images.shape), images.dtype)
        values = [variable.value.detach() for variable in network.variables]
        if key not in self._traced:
            try:
                self._traced[key] = self._trace(images.detach(), values)
            # Each operation that cannot be traced has its own error: one that
            # draws random numbers, for example, or decides by values.
            except Exception:
                self._traced[key] = self._untraced
        return self._traced[key](images, *values)

    def _untraced(self, images: Tensor, *values: Tensor) -> Tensor:
        return self._reference()(images, training=False)

    def _trace(self, images: Tensor, values: list[Tensor]) -> Callable:
        """The operations of a call, as a function of images and values."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def forward(images: Tensor, *values: Tensor) -> Tensor:
            network = self._reference()
            pairs = list(zip(network.variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs):
                return network(images, training=False)

        # "fake" tensors have no values, so code that decides by them fails.
        with torch.no_grad():
            return make_fx(forward, tracing_mode="fake")(images, *values)


def jit(function: Callable, network: keras.Model) -> Callable:
    """`function(network, ...)`, in which calls of the network are traced."""
    return partial(function, _TRACED.get(network, TracedForward))

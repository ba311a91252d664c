"""The forward pass of a network on PyTorch, traced for attacks.

An attack calls the network many times, and for small networks most of the time
is Keras's own, in Python. The operations of one call are written down once and
repeated without it. (`torch.compile` of the network breaks its graph at each
layer, and of what is traced here it made nothing faster on a CPU.)
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
    """A network, of which calls in evaluation mode are traced.

    All else is that of the network. A call changes no variable, and gives
    gradients of the images, none of the weights.
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
            # Of any operation: those that need more than images and variables,
            # such as random numbers, and those that decide by values.
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

        # With tensors that have no values, nothing can depend on them without
        # an error.
        with torch.no_grad():
            return make_fx(forward, tracing_mode="fake")(images, *values)


def jit(function: Callable, network: keras.Model) -> Callable:
    """`function(network, ...)`, in which calls of the network are traced."""
    return partial(function, _TRACED.get(network, TracedForward))

"""The forward pass of a network on PyTorch, traced for attacks.

An attack calls the network many times, and for small networks most of the time
is Keras's own, in Python. With `jit_compile=True`, the operations of one call
are written down once and repeated without it. (`torch.compile` of the network
breaks its graph at each layer, and made what is traced here no faster on a
CPU.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import torch

from keras_wake.backend.layer_settings import PerModel
from keras_wake.utils.types import Tensor

_TRACED = PerModel()
# A full batch and the last one of an epoch. An attack whose batches get smaller
# has so many sizes that tracing them all would take longer than it saves.
_SIZES = 2


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
        key = (tuple(images.shape), images.dtype)
        known = key in self._traced
        if training or not (known or len(self._traced) < _SIZES):
            return network(images, training=training)
        values = [variable.value.detach() for variable in network.variables]
        if not known:
            self._traced[key] = self._checked_trace(images.detach(), values)
        return self._traced[key](images, *values)

    def _checked_trace(self, images: Tensor, values: list[Tensor]) -> Callable:
        """The operations of a call, as a function of images and values.

        Raises:
            ValueError: If they do not compute what the network does.
        """
        # First, because a layer may make what it keeps in its first call.
        expected = _gradient(partial(self._reference(), training=False), images)
        hint = 'Leave jit_compile="auto". Received: jit_compile=True.'
        try:
            traced = self._trace(images, values)
        except Exception as error:  # Of any operation.
            raise ValueError(
                f"The network {self._reference().name!r} cannot be traced for "
                "the attack: a call depends on more than its images and its "
                "variables, such as random numbers, or decides by values. "
                f"{hint} ({type(error).__name__}: {error})"
            ) from error
        found = _gradient(lambda images: traced(images, *values), images)
        # The same operations: on a GPU, sums may be taken in another order.
        if (found - expected).abs().max() > 1e-3 * expected.abs().max():
            raise ValueError(
                f"The network {self._reference().name!r} has another gradient "
                "when it is traced for the attack: a trace knows no gradient "
                f"that a layer defines by itself. {hint}"
            )
        return traced

    def _trace(self, images: Tensor, values: list[Tensor]) -> Callable:
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


def _gradient(function: Callable, images: Tensor) -> Tensor:
    """The gradient of logits of all sizes, float32 like the images."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = function(leaf).float()
        weights = torch.linspace(-1, 2, logits.numel(), device=logits.device)
        total = (logits.reshape(-1) * weights).sum()
        if not total.requires_grad:
            return torch.zeros_like(leaf)
        found = torch.autograd.grad(total, leaf, materialize_grads=True)
    return found[0].nan_to_num()


def jit(function: Callable, network: keras.Model) -> Callable:
    """`function(network, ...)`, in which calls of the network are traced."""
    return partial(function, _TRACED.get(network, TracedForward))

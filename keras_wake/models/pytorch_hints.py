"""Which network the keys of a checkpoint belong to, and what no key tells."""

import re
from collections.abc import Mapping

import keras

from keras_wake.utils.types import Array

NOT_HERE = "which `keras_wake.models` does not have"


def looks_like(state: Mapping[str, Array]) -> str:
    """A sentence on the network of a state dict; empty if it is unknown."""
    name = _wide_resnet(state) or _resnet(state)
    if {"init_conv.weight", "conv_2d.weight"} & set(state):
        name = (
            "a network of DeepMind's code, with other padding and another "
            f"activation, {NOT_HERE}"
        )
    return f"The checkpoint looks like {name}." if name else ""


def _wide_resnet(state: Mapping[str, Array]) -> str:
    kernel = state.get("block1.layer.0.conv2.weight")
    if kernel is None:
        return ""
    depth = 6 * _count(state, r"block1\.layer\.\d+\.") + 4
    widen_factor = len(kernel) // 16
    text = f"a WideResNet-{depth}-{widen_factor}"
    if not {"fc.weight", "fc.bias"} <= set(state):
        return f"{text} whose last layer has no bias, {NOT_HERE}"
    classes = len(state["fc.weight"])
    return (
        f"{text} with {classes} classes: `WideResNet({classes}, "
        f"depth={depth}, widen_factor={widen_factor})`"
    )


def _resnet(state: Mapping[str, Array]) -> str:
    kernel = state.get("layer1.0.conv1.weight")
    if kernel is None:
        return ""
    convolutions = 3 if "layer1.0.conv3.weight" in state else 2
    depth = convolutions * _count(state, r"layer\d+\.\d+\.") + 2
    # A plain network normalises after its first convolution.
    if "bn1.weight" in state:
        return f"a plain ResNet-{depth}, not a pre-activation one, {NOT_HERE}"
    text = f"a PreActResNet-{depth}"
    if depth != 18 or "linear.weight" not in state:
        return f"{text}, {NOT_HERE}"
    classes, width = len(state["linear.weight"]), len(kernel)
    without = "" if "bn.weight" in state else ", final_norm=False"
    return (
        f"{text} of width {width} with {classes} classes: "
        f"`PreActResNet18({classes}, width={width}{without})`"
    )


def _count(state: Mapping[str, Array], prefix: str) -> int:
    """How many different prefixes of this pattern the keys have."""
    return len({match[0] for key in state if (match := re.match(prefix, key))})


def open_questions(model: keras.Model, normaliser: Mapping[str, Array]) -> str:
    """What the logits depend on and a state dict does not hold.

    `normaliser` has the mean and std of the pixels, if the checkpoint does.
    """
    questions = []
    layers = {layer.name: layer for layer in model.layers}
    shortcut = layers.get("layer2_0_shortcut")
    relu = layers.get("layer2_0_relu1")
    if shortcut and relu:  # A PreActResNet.
        forms = ["preactivated", "raw"]
        if shortcut.input is not relu.output:
            forms.reverse()
        questions.append(
            f"the shortcut (this network has {forms[0]!r}; "
            f"`PreActResNet18(shortcut={forms[1]!r})` has the other form)"
        )
    if len(normaliser) < 2:
        questions.append(
            "how the pixels are normalised (`mean=` and `std=` of this "
            "network, or each image by itself)"
        )
    return ", ".join([*questions, "the activation"])

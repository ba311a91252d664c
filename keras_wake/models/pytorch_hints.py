"""What to say of a PyTorch checkpoint: which network its keys belong to, and
what the logits depend on that no key tells.
"""

import re
from collections.abc import Mapping
from collections.abc import Sequence

import keras

from keras_wake.utils.types import Array

NOT_HERE = "which `keras_wake.models` does not have"


def misfit(
    state: Mapping[str, Array],
    missing: Sequence[str],
    left_over: Sequence[str],
    differing: Sequence[str],
) -> str:
    """A sentence on a checkpoint that does not fit, or an empty string.

    Args:
        state: Arrays by key, without the wrappers that are understood.
        missing: Keys that only the network has.
        left_over: Keys that only the checkpoint has.
        differing: Keys whose shapes differ.
    """
    if len(differing) > 3 and not (missing or left_over):
        return (
            "Make the network as wide as that of the checkpoint: `width=` of "
            "`PreActResNet18`, `widen_factor=` of `WideResNet`."
        )
    if (not missing) != (not left_over) and all(
        key.startswith("bn.") for key in [*missing, *left_over]
    ):
        return (
            "Make the network with "
            f"`PreActResNet18(..., final_norm={not missing})`."
        )
    return _looks_like(state)


def _looks_like(state: Mapping[str, Array]) -> str:
    prefix = _module_around(state)
    if prefix:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        return (
            f"The names begin with {prefix!r}, of a module that holds the "
            f"network: pass the entries under it, without {prefix!r}. "
            + _looks_like(inner)
        )
    name = _wide_resnet(state) or _of_deepmind(state) or _resnet(state)
    return f"The checkpoint looks like {name}." if name else ""


def _module_around(state: Mapping[str, Array]) -> str:
    """What stands before the name of the first convolution."""
    for key in state:
        found = re.fullmatch(r"((?:\w+\.)+)(conv1|init_conv)\.weight", key)
        if found and not re.search(r"(layer\d*|block\d*)\.", found[1]):
            return found[1]
    return ""


def _wide_resnet(state: Mapping[str, Array]) -> str:
    block = re.compile(r"block1\.layer\.(\d+)\.")
    blocks = {found[1] for key in state if (found := block.match(key))}
    kernel = state.get("block1.layer.0.conv2.weight")
    if not blocks or kernel is None:
        return ""
    depth, widen_factor = 6 * len(blocks) + 4, len(kernel) // 16
    text = f"a WideResNet-{depth}-{widen_factor}"
    if "fc.weight" not in state or "fc.bias" not in state:
        return (
            f"{text} whose last layer has no bias, as that of "
            f"Pang2020Boosting, {NOT_HERE}"
        )
    classes = len(state["fc.weight"])
    return (
        f"{text} with {classes} classes: `WideResNet({classes}, "
        f"depth={depth}, widen_factor={widen_factor})`"
    )


def _of_deepmind(state: Mapping[str, Array]) -> str:
    kinds = {"init_conv": "WideResNet", "conv_2d": "PreActResNet"}
    for layer, kind in kinds.items():
        if f"{layer}.weight" in state and "logits.weight" in state:
            return (
                f"the {kind} of DeepMind's code, with other padding and "
                f"another activation, {NOT_HERE}"
            )
    return ""


def _resnet(state: Mapping[str, Array]) -> str:
    block = re.compile(r"layer\d+\.\d+\.")
    blocks = {found[0] for key in state if (found := block.match(key))}
    kernel = state.get("layer1.0.conv1.weight")
    if kernel is None or "layer1.0.bn1.weight" not in state:
        return ""
    convolutions = 3 if "layer1.0.conv3.weight" in state else 2
    depth = convolutions * len(blocks) + 2
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


def open_questions(model: keras.Model, normaliser: Mapping[str, Array]) -> str:
    """What the logits depend on and a state dict does not hold.

    Args:
        model: The network.
        normaliser: Mean and std of the pixels, if the checkpoint has them.
    """
    questions = []
    shortcut = _shortcut(model)
    if shortcut:
        other = "raw" if shortcut == "preactivated" else "preactivated"
        questions.append(
            f"the shortcut (this network has {shortcut!r}; "
            f"`PreActResNet18(shortcut={other!r})` has the other form)"
        )
    if len(normaliser) < 2:
        questions.append(
            "how the pixels are normalised (`mean=` and `std=` of this "
            "network, or each image by itself)"
        )
    return ", ".join([*questions, "the activation"])


def _shortcut(model: keras.Model) -> str | None:
    """The form of a PreActResNet's shortcuts; None for other networks."""
    layers = {layer.name: layer for layer in model.layers}
    shortcut = layers.get("layer2_0_shortcut")
    relu = layers.get("layer2_0_relu1")
    if shortcut is None or relu is None:
        return None
    return "preactivated" if shortcut.input is relu.output else "raw"

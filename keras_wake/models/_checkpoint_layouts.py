"""Which published network a PyTorch state dict belongs to, by its keys."""

import re
from collections.abc import Mapping

import numpy as np

# Blocks of every stage, to the depth in a network's name.
BASIC_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
BOTTLENECK_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
WIDE_BLOCK = re.compile(r"block1\.layer\.(\d+)\.")
NOT_HERE = "which `keras_wake.models` does not have"


def described(state: Mapping[str, np.ndarray]) -> str:
    """A sentence on the network that the keys look like, or an empty string.

    Args:
        state: Arrays by key, without the wrappers that are understood.
    """
    prefix = _wrapper(state)
    if prefix:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        return (
            f"The names begin with {prefix!r}, of a module that holds the "
            f"network: pass the entries under it, without {prefix!r}. "
            + described(inner)
        )
    looks_like = _wide(state) or _deepmind(state) or _residual(state)
    return f"The checkpoint looks like {looks_like}." if looks_like else ""


def _wrapper(state: Mapping[str, np.ndarray]) -> str:
    """What stands before the first convolution of a known layout."""
    for key in state:
        found = re.fullmatch(r"((?:\w+\.)+)(conv1|init_conv)\.weight", key)
        if found and not re.search(r"(layer\d*|block\d*)\.", found[1]):
            return found[1]
    return ""


def _classes(state: Mapping[str, np.ndarray], name: str) -> int | None:
    """Rows of the last layer."""
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim != 2 else len(weight)


def _wide(state: Mapping[str, np.ndarray]) -> str:
    blocks = {int(m[1]) for key in state if (m := WIDE_BLOCK.match(key))}
    kernel = state.get("block1.layer.0.conv2.weight")
    if not blocks or kernel is None:
        return ""
    depth, widen_factor = 6 * len(blocks) + 4, len(kernel) // 16
    classes = _classes(state, "fc")
    text = f"a WideResNet-{depth}-{widen_factor}"
    if "fc.bias" not in state:
        return (
            f"{text} whose last layer has no bias, as that of "
            f"Pang2020Boosting, {NOT_HERE}"
        )
    return (
        f"{text} with {classes} classes: `WideResNet({classes}, "
        f"depth={depth}, widen_factor={widen_factor})`"
    )


def _deepmind(state: Mapping[str, np.ndarray]) -> str:
    for key, kind in (
        ("init_conv.weight", "WideResNet"),
        ("conv_2d.weight", "PreActResNet"),
    ):
        if key in state and "logits.weight" in state:
            return (
                f"the {kind} of DeepMind's code, with other padding and "
                f"another activation, {NOT_HERE}"
            )
    return ""


def _residual(state: Mapping[str, np.ndarray]) -> str:
    stages: dict[int, set[int]] = {}
    for key in state:
        if found := BLOCK.match(key):
            stages.setdefault(int(found[1]), set()).add(int(found[2]))
    blocks = tuple(len(stages[stage]) for stage in sorted(stages))
    bottleneck = "layer1.0.conv3.weight" in state
    depths = BOTTLENECK_DEPTHS if bottleneck else BASIC_DEPTHS
    kernel, norm = (
        state.get(f"layer1.0.{name}.weight") for name in ("conv1", "bn1")
    )
    if blocks not in depths or kernel is None or norm is None:
        return ""
    depth, width = depths[blocks], len(kernel)
    # A plain network normalises after its first convolution.
    if "bn1.weight" in state:
        return f"a plain ResNet-{depth}, not a pre-activation one, {NOT_HERE}"
    text = f"a PreActResNet-{depth}"
    classes = _classes(state, "linear")
    if depth != 18 or classes is None:
        return f"{text}, {NOT_HERE}"
    without = "" if "bn.weight" in state else ", final_norm=False"
    return (
        f"{text} of width {width} with {classes} classes: "
        f"`PreActResNet18({classes}, width={width}{without})`"
    )

"""What the message says of a checkpoint that belongs to another network."""

import numpy as np
import pytest
from torch_twins import assert_refused
from torch_twins import import_torch
from torch_twins import preact_resnet18
from torch_twins import wide_resnet

import keras_wake as kw
from keras_wake.models import load_pytorch_weights

BASIC = (2, 2, 2, 2), (3, 4, 6, 3)
SMALL = kw.models.SmallCNN(widths=(2,) * 5)


def residual(blocks, width=4, classes=10, plain=False, bottleneck=False):
    """The names of kuangliu's (pre-activation) ResNets, with few shapes."""
    state = {"conv1.weight": np.zeros((width, 3, 3, 3))}
    if plain:
        state["bn1.weight"] = np.zeros(width)
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            state[f"{name}.bn1.weight"] = np.zeros(width)
            state[f"{name}.conv1.weight"] = np.zeros((width, width, 3, 3))
            if bottleneck:
                state[f"{name}.conv3.weight"] = np.zeros((width, width, 1, 1))
    state["linear.weight"] = np.zeros((classes, width))
    return state


def message_of(state, network=SMALL):
    return assert_refused(network, state, "does not fit")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (residual(BASIC[0], plain=True), "a plain ResNet-18, not a pre-act"),
        (residual(BASIC[1], plain=True), "a plain ResNet-34,"),
        (
            residual(BASIC[1], plain=True, bottleneck=True),
            "a plain ResNet-50,",
        ),
        (residual(BASIC[1]), "a PreActResNet-34, which `keras_wake.models`"),
        (
            residual(BASIC[0], width=8, classes=100),
            "`PreActResNet18(100, width=8, final_norm=False)`",
        ),
        ({"init_conv.weight": np.zeros(1)}, "a network of DeepMind's code"),
        ({"conv_2d.weight": np.zeros(1)}, "a network of DeepMind's code"),
    ],
)
def test_names_the_architecture(state, text):
    message = message_of(state)
    assert "Missing: " in message and "looks like" in message
    assert text in message


def test_names_depth_and_width_of_real_state_dicts():
    import_torch()
    state = wide_resnet(16, 2, 7, unused_block=True).state_dict()
    assert (
        "looks like a WideResNet-16-2 with 7 classes: "
        "`WideResNet(7, depth=16, widen_factor=2)`."
    ) in message_of(state)
    del state["fc.bias"]
    assert "last layer has no bias" in message_of(state)
    state = preact_resnet18(4, 3).state_dict()
    expected = (
        "looks like a PreActResNet-18 of width 4 with 3 classes: "
        "`PreActResNet18(3, width=4)`."
    )
    assert expected in message_of(state)
    # Only the last layer differs.
    other = kw.models.PreActResNet18(7, (8, 8, 3), width=4)
    assert expected in message_of(state, other)


def test_several_state_dicts_in_one_file():
    several = {name: residual(BASIC[0]) for name in ("last", "best")}
    message = r"several state dicts, under 'last', 'best'\. Choose"
    with pytest.raises(ValueError, match=message):
        load_pytorch_weights(SMALL, several)


def test_says_nothing_of_what_does_not_matter_or_is_not_known():
    assert "looks like" not in message_of({"a.weight": np.zeros((2, 2))})
    # Second names of published code.
    state = {**residual(BASIC[0]), "model_preact_hl1.1.weight": np.zeros(1)}
    state["sub_block1.layer.0.bn1.weight"] = np.zeros(1)
    message = message_of(state)
    assert "model_preact_hl1" not in message and "sub_block1" not in message

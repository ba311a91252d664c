"""The published networks written out in PyTorch, in their published layout.

Only what the logits depend on; the names of modules are those of the files
that people share.
"""

import keras
import numpy as np
import pytest
from small import assert_same

from keras_wake.models import load_pytorch_weights

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)

SUFFIXES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "kernel": "weight",
    "bias": "bias",
}


def import_torch():
    return pytest.importorskip("torch", reason="the twin is in PyTorch")


def block(inputs, outputs, stride, shortcut="shortcut", raw=False):
    """A pre-activation block; `shortcut` is the name of its 1x1 convolution."""
    torch = import_torch()
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = nn.Conv2d(
                inputs, outputs, 3, stride, padding=1, bias=False
            )
            self.bn2 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            if stride != 1 or inputs != outputs:
                skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                # As in the published code.
                wrapped = (
                    nn.Sequential(skip) if shortcut == "shortcut" else skip
                )
                setattr(self, shortcut, wrapped)

        def forward(self, x):
            out = torch.relu(self.bn1(x))
            skipped = x
            if hasattr(self, shortcut):
                skipped = getattr(self, shortcut)(x if raw else out)
            out = self.conv1(out)
            return self.conv2(torch.relu(self.bn2(out))) + skipped

    return Block()


def preact_resnet18(
    width=64, num_classes=10, final_norm=True, shortcut="preactivated"
):
    """The PreActResNet-18 of robust training; normalises by itself.

    With `shortcut="raw"` as Wong et al. (2020) and Andriushchenko and
    Flammarion (2020) have it.
    """
    torch = import_torch()
    nn = torch.nn

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            channels = width
            for stage, stride in enumerate((1, 2, 2, 2)):
                outputs = width * 2**stage
                blocks = nn.Sequential(
                    block(channels, outputs, stride, raw=shortcut == "raw"),
                    block(outputs, outputs, 1),
                )
                setattr(self, f"layer{stage + 1}", blocks)
                channels = outputs
            self.bn = nn.BatchNorm2d(channels) if final_norm else None
            self.linear = nn.Linear(channels, num_classes)

        def features(self, x):
            mean = torch.tensor(CIFAR10_MEAN, dtype=x.dtype).view(1, 3, 1, 1)
            std = torch.tensor(CIFAR10_STD, dtype=x.dtype).view(1, 3, 1, 1)
            x = self.conv1((x - mean) / std)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return (torch.relu(self.bn(x)) if final_norm else x).mean((2, 3))

        def forward(self, x):
            return self.linear(self.features(x))

    return Twin()


def wide_resnet(depth, widen_factor, num_classes=10, unused_block=False):
    """WRN-depth-widen_factor as TRADES has it, on pixels as they are."""
    torch = import_torch()
    nn = torch.nn

    class Group(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            blocks = [block(inputs, outputs, stride, "convShortcut")]
            while len(blocks) < (depth - 4) // 6:
                blocks.append(block(outputs, outputs, 1))
            self.layer = nn.Sequential(*blocks)

        def forward(self, x):
            return self.layer(x)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [16, *(16 * widen_factor * n for n in (1, 2, 4))]
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.block1 = Group(widths[0], widths[1], 1)
            if unused_block:
                self.sub_block1 = Group(widths[0], widths[1], 1)
            self.block2 = Group(widths[1], widths[2], 2)
            self.block3 = Group(widths[2], widths[3], 2)
            self.bn1 = nn.BatchNorm2d(widths[3])
            self.fc = nn.Linear(widths[3], num_classes)

        def forward(self, x):
            x = self.block3(self.block2(self.block1(self.conv1(x))))
            return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))

    return Twin()


def published_state(classifier, value_of):
    """`value_of` each weight, by its name and axes in the published layout."""
    state = {}
    for layer in classifier.layers:
        for weight in layer.weights:
            value = value_of(weight)
            if weight.name == "kernel":
                value = np.moveaxis(value, (-1, -2), (0, 1))
            key = f"{layer.name.replace('_', '.')}.{SUFFIXES[weight.name]}"
            key = key.replace(".shortcut.", ".shortcut.0.")
            state[key] = np.ascontiguousarray(value)
    return state


def synthetic_state(classifier, low=0.5, high=1.5):
    """Random arrays in the published layout, made without PyTorch."""
    rng = np.random.default_rng(0)
    return published_state(
        classifier,
        lambda weight: rng.uniform(low, high, weight.shape).astype("float32"),
    )


def logits_of(classifier, images, training=False):
    return keras.ops.convert_to_numpy(classifier(images, training=training))


def assert_refused(classifier, checkpoint, message, **arguments):
    """With a `ValueError`, whose text it returns, and no weight changed."""
    before = [np.array(weight) for weight in classifier.get_weights()]
    with pytest.raises(ValueError, match=message) as error:
        load_pytorch_weights(classifier, checkpoint, **arguments)
    assert_same(classifier.get_weights(), before)
    return str(error.value)


# Random batch norm, because at its defaults it would hide mistakes. Variances
# below 1 keep the signal from fading with depth.
BATCH_NORM_RANGES = {
    "gamma": (0.5, 1.5),
    "beta": (-0.5, 0.5),
    "moving_mean": (-0.2, 0.2),
    "moving_variance": (0.3, 0.9),
}


def with_random_statistics(twin, seed=0):
    """The twin, with random batch norm, in inference mode."""
    torch = import_torch()
    generator = torch.Generator().manual_seed(seed)
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for name, (low, high) in BATCH_NORM_RANGES.items():
                tensor = getattr(module, SUFFIXES[name]).data
                tensor.uniform_(low, high, generator=generator)
    return twin.eval()


def randomise_batch_norm(classifier, seed=2):
    """The same for the network in Keras."""
    rng = np.random.default_rng(seed)
    for weight in classifier.weights:
        limits = BATCH_NORM_RANGES.get(weight.path.split("/")[-1])
        if limits:
            weight.assign(rng.uniform(*limits, weight.shape))


def varied_images(*shape):
    """Noise of different colour and contrast, so that logits differ."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.random((2, shape[0], 1, 1, shape[-1])), axis=0)
    return (low + (high - low) * rng.random(shape)).astype("float32")


def copy_to_torch(classifier, twin):
    """Copies every weight by name; what is left over is an error."""
    torch = import_torch()
    state = published_state(classifier, keras.ops.convert_to_numpy)
    missing, unexpected = twin.load_state_dict(
        {key: torch.tensor(value) for key, value in state.items()}, strict=False
    )
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def logits_in_float64(twin, images):
    """The twin's logits of channels-last images."""
    torch = import_torch()
    x = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float64)
    with torch.no_grad():
        return twin.double()(x).numpy()

"""PreActResNet18 against a PyTorch twin that is written out here."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_wake import models

LOAD_WITHOUT_KERAS_WAKE = """
import sys
import keras
import numpy as np
model = keras.saving.load_model(sys.argv[1])
if any(name.startswith("keras_wake") for name in sys.modules):
    raise SystemExit("keras_wake was imported")
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def torch_twin(width, num_classes):
    """The published network, in PyTorch."""
    torch = pytest.importorskip("torch", reason="the twin is in PyTorch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = nn.Conv2d(
                inputs, outputs, 3, stride, padding=1, bias=False
            )
            self.bn2 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.shortcut = None
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Conv2d(
                    inputs, outputs, 1, stride, bias=False
                )

        def forward(self, x):
            out = torch.relu(self.bn1(x))
            shortcut = x if self.shortcut is None else self.shortcut(out)
            out = self.conv1(out)
            return self.conv2(torch.relu(self.bn2(out))) + shortcut

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            channels = width
            for stage, stride in enumerate((1, 2, 2, 2)):
                outputs = width * 2**stage
                blocks = nn.Sequential(
                    Block(channels, outputs, stride),
                    Block(outputs, outputs, 1),
                )
                setattr(self, f"layer{stage + 1}", blocks)
                channels = outputs
            self.bn = nn.BatchNorm2d(channels)
            self.linear = nn.Linear(channels, num_classes)

        def forward(self, x):
            mean = torch.tensor((0.4914, 0.4822, 0.4465)).view(1, 3, 1, 1)
            std = torch.tensor((0.2471, 0.2435, 0.2616)).view(1, 3, 1, 1)
            x = self.conv1((x - mean) / std)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.linear(torch.relu(self.bn(x)).mean((2, 3)))

    return Twin()


def copy_to_torch(classifier, twin):
    """Copies every weight by name; what is left over is an error."""
    torch = pytest.importorskip("torch")
    suffixes = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
        "kernel": "weight",
        "bias": "bias",
    }
    state = {}
    for layer in classifier.layers:
        for weight in layer.weights:
            value = keras.ops.convert_to_numpy(weight)
            if weight.name == "kernel":
                value = value.transpose(
                    (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
                )
            parts = layer.name.split("_")
            state[".".join([*parts, suffixes[weight.name]])] = torch.tensor(
                np.ascontiguousarray(value)
            )
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


@pytest.mark.parametrize("side", [32, 31])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_pytorch_twin(side, training):
    torch = pytest.importorskip("torch", reason="the twin is in PyTorch")
    keras.utils.set_random_seed(1)
    classifier = models.PreActResNet18(7, input_shape=(side, side, 3), width=8)
    rng = np.random.default_rng(2)
    for weight in classifier.weights:
        # Fresh batch norm is almost the identity and would hide mistakes.
        if weight.path.split("/")[-1] in (
            "gamma",
            "beta",
            "moving_mean",
            "moving_variance",
        ):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    twin = torch_twin(8, 7).train(training)
    copy_to_torch(classifier, twin)
    images = random_images(4, side, side, 3)

    logits = keras.ops.convert_to_numpy(classifier(images, training=training))
    with torch.no_grad():
        expected = twin(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()

    assert logits.shape == (4, 7)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    if training:
        np.testing.assert_allclose(
            classifier.get_layer("bn").moving_mean,
            twin.bn.running_mean.numpy(),
            atol=1e-4,
        )


def test_number_of_parameters_is_the_published_one():
    classifier = models.PreActResNet18()
    trainable = sum(
        int(np.prod(weight.shape)) for weight in classifier.trainable_weights
    )
    twin = torch_twin(64, 10)
    assert trainable == sum(p.numel() for p in twin.parameters())
    assert trainable == 11_172_170


def test_starts_from_pytorchs_distribution():
    keras.utils.set_random_seed(0)
    classifier = models.PreActResNet18(width=16)
    kernels = [
        (layer.name, keras.ops.convert_to_numpy(layer.kernel))
        for layer in classifier.layers
        if hasattr(layer, "kernel")
    ]
    assert len(kernels) == 1 + 16 + 3 + 1
    for name, kernel in kernels:
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert np.abs(kernel).max() <= bound, name
        # Uniform in ±bound: standard deviation bound / sqrt(3).
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.1), name
    bias = keras.ops.convert_to_numpy(classifier.get_layer("linear").bias)
    assert 0 < np.abs(bias).max() <= 1 / np.sqrt(128)
    first = dict(kernels)["layer1_0_conv1"]
    assert not np.array_equal(first, dict(kernels)["layer1_0_conv2"])


@pytest.mark.parametrize("network", ["PreActResNet18", "SmallCNN"])
def test_loads_where_keras_wake_is_not_imported(tmp_path, network):
    keras.utils.set_random_seed(3)
    width = {"width": 4} if network == "PreActResNet18" else {}
    classifier = getattr(models, network)(**width)
    images = random_images(2, 32, 32, 3)
    np.save(tmp_path / "images.npy", images)
    classifier.save(tmp_path / "robust.keras")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD_WITHOUT_KERAS_WAKE,
            "robust.keras",
            "images.npy",
            "logits.npy",
        ],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"),
        classifier.predict(images, verbose=0),
        atol=1e-6,
    )


def test_channels_first_as_global_format_changes_nothing():
    keras.utils.set_random_seed(4)
    expected = models.PreActResNet18(width=2)
    images = random_images(2, 32, 32, 3)
    keras.config.set_image_data_format("channels_first")
    try:
        classifier = models.PreActResNet18(width=2)
        classifier.set_weights(expected.get_weights())
        logits = keras.ops.convert_to_numpy(classifier(images))
    finally:
        keras.config.set_image_data_format("channels_last")
    expected = keras.ops.convert_to_numpy(expected(images))
    np.testing.assert_allclose(logits, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (None, None, (-1.0, 1.0)),
        (0.25, 0.5, (-0.5, 1.5)),
        ([0.0, 0.5], [1.0, 0.25], (0.0, 2.0)),
    ],
)
def test_normalises_inside(mean, std, expected):
    classifier = models.PreActResNet18(
        input_shape=(8, 8, 2), width=1, mean=mean, std=std
    )
    images = np.zeros((1, 8, 8, 2), np.float32)
    images[..., 1] = 1
    normalised = keras.ops.convert_to_numpy(
        classifier.get_layer("normalization")(images)
    )
    np.testing.assert_allclose(normalised[0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2"),
        ({"num_classes": 2.0}, TypeError, "`num_classes` must be an integer"),
        ({"width": 0}, ValueError, "`width` must be at least 1"),
        ({"input_shape": (32, 32)}, ValueError, r"\(height, width, channels\)"),
        ({"input_shape": (32, None, 3)}, ValueError, "positive integers"),
        ({"input_shape": (0, 32, 3)}, ValueError, "positive integers"),
        ({"input_shape": 32}, TypeError, "must be a sequence"),
        ({"input_shape": (7, 32, 3)}, ValueError, "at least 8 pixels"),
        ({"mean": (0.5, 0.5)}, ValueError, "`mean` must be a number or one"),
        ({"mean": "half"}, TypeError, "`mean` must be a real number"),
        ({"std": 0.0}, ValueError, "`std` must be greater than 0"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        models.PreActResNet18(**arguments)

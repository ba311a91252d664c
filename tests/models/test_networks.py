"""The networks against PyTorch twins, and what they share."""

import zipfile

import keras
import numpy as np
import pytest
from torch_twins import copy_to_torch
from torch_twins import import_torch
from torch_twins import logits_in_float64
from torch_twins import logits_of
from torch_twins import preact_resnet18
from torch_twins import randomise_batch_norm
from torch_twins import varied_images
from torch_twins import wide_resnet

from keras_wake import models


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def kernels_of(classifier, kind=object):
    """The kernels of the layers that have one, by name."""
    return {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in classifier.layers
        if hasattr(layer, "kernel") and isinstance(layer, kind)
    }


@pytest.mark.parametrize(
    ("side", "training", "shortcut"),
    [
        (32, False, "preactivated"),
        (31, True, "preactivated"),
        (31, False, "raw"),
        (32, True, "raw"),
    ],
)
def test_preact_resnet_equals_the_pytorch_twin(side, training, shortcut):
    torch = import_torch()
    keras.utils.set_random_seed(1)
    classifier = models.PreActResNet18(
        7, input_shape=(side, side, 3), width=8, shortcut=shortcut
    )
    randomise_batch_norm(classifier)
    twin = preact_resnet18(8, 7, shortcut=shortcut).train(training)
    copy_to_torch(classifier, twin)
    images = random_images(4, side, side, 3)

    logits = logits_of(classifier, images, training)
    with torch.no_grad():
        expected = twin(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()

    assert logits.shape == (4, 7)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    if training:
        mean = classifier.get_layer("bn").moving_mean
        expected = twin.bn.running_mean.numpy()
        np.testing.assert_allclose(mean, expected, atol=1e-4)


# Several blocks in a group, and a first group that keeps the 16 channels.
@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 2), (16, 1)])
def test_wide_resnet_equals_the_pytorch_twin(depth, widen_factor):
    keras.utils.set_random_seed(1)
    sizes = {"depth": depth, "widen_factor": widen_factor}
    classifier = models.WideResNet(7, (16, 16, 3), mean=0.0, std=1.0, **sizes)
    randomise_batch_norm(classifier)
    twin = wide_resnet(depth, widen_factor, 7).eval()
    copy_to_torch(classifier, twin)
    images = varied_images(4, 16, 16, 3)
    expected = logits_in_float64(twin, images)
    assert np.ptp(expected, axis=0).min() > 0.01
    # Logits up to 22, of a network of at most 16 layers in float32.
    found = logits_of(classifier, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_small_cnn_equals_its_formula_in_pytorch():
    torch = import_torch()
    keras.utils.set_random_seed(0)
    classifier = models.SmallCNN(5, (9, 8, 1), widths=(4, 6), strides=(2, 1))
    images = random_images(3, 9, 8, 1, seed=1)
    kernels = kernels_of(classifier)
    x = (torch.tensor(images.transpose(0, 3, 1, 2)) - 0.5) / 0.5
    for name, stride in (("conv1", 2), ("conv2", 1)):
        kernel = torch.tensor(kernels[name].transpose(3, 2, 0, 1))
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
        x = torch.relu(x / np.sqrt(1 + 1e-5))
    kernel, bias = (
        torch.tensor(weight) for weight in classifier.get_weights()[-2:]
    )
    expected = x.mean((2, 3)) @ kernel + bias
    found = logits_of(classifier, images)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_small_cnn_has_the_default_layout():
    classifier = models.SmallCNN()
    convolutions = [
        layer
        for layer in classifier.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert [layer.filters for layer in convolutions] == [32, 64, 64, 128, 128]
    sides = [layer.output.shape[1] for layer in convolutions]
    assert sides == [16, 8, 8, 4, 4]
    assert isinstance(classifier.layers[-1], keras.layers.Dense)
    assert classifier.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("name", "twin", "count"),
    [
        ("PreActResNet18", preact_resnet18, 11_172_170),
        ("WideResNet28_10", lambda: wide_resnet(28, 10), 36_479_194),
        pytest.param(
            "WideResNet34_10",
            lambda: wide_resnet(34, 10),
            46_160_474,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_number_of_parameters_is_the_published_one(name, twin, count):
    classifier = getattr(models, name)()
    assert classifier.output_shape == (None, 10)
    if "Wide" in name:
        assert classifier.name == f"wide_resnet{name[-5:]}"
    trainable = sum(
        int(np.prod(weight.shape)) for weight in classifier.trainable_weights
    )
    assert trainable == count == sum(p.numel() for p in twin().parameters())


@pytest.mark.parametrize(
    "name",
    [
        "WideResNet28_10",
        pytest.param("WideResNet34_10", marks=pytest.mark.slow),
    ],
)
def test_named_networks_pass_their_arguments_on(name):
    classifier = getattr(models, name)(
        3, (8, 12, 2), mean=0.25, std=0.5, name="other"
    )
    assert classifier.input_shape == (None, 8, 12, 2)
    assert classifier.output_shape == (None, 3)
    assert classifier.name == "other"
    images = np.ones((1, 8, 12, 2), "float32")
    normalised = logits_of(classifier.get_layer("normalization"), images)
    np.testing.assert_allclose(normalised, 1.5, atol=1e-6)


def test_preact_resnet_starts_from_pytorchs_distribution():
    keras.utils.set_random_seed(0)
    classifier = models.PreActResNet18(width=16)
    kernels = kernels_of(classifier)
    assert len(kernels) == 1 + 16 + 3 + 1
    for name, kernel in kernels.items():
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert np.abs(kernel).max() <= bound, name
        # Uniform in ±bound: standard deviation bound / sqrt(3).
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.1), name
    bias = keras.ops.convert_to_numpy(classifier.get_layer("linear").bias)
    assert 0 < np.abs(bias).max() <= 1 / np.sqrt(128)
    first, second = (kernels[f"layer1_0_conv{n}"] for n in (1, 2))
    assert not np.array_equal(first, second)


def test_wide_resnet_starts_from_the_published_distribution():
    keras.utils.set_random_seed(0)
    classifier = models.WideResNet(depth=10, widen_factor=4)
    kernels = kernels_of(classifier, keras.layers.Conv2D)
    assert len(kernels) == 1 + 3 * 2 + 3
    for name, kernel in kernels.items():
        area, filters = np.prod(kernel.shape[:2]), kernel.shape[-1]
        # Of at least 432 numbers: the standard error is below 4 %.
        expected = np.sqrt(2 / (area * filters))
        assert kernel.std() == pytest.approx(expected, rel=0.12), name
    kernel, bias = classifier.get_layer("fc").get_weights()
    assert np.abs(kernel).max() <= 1 / np.sqrt(256)
    assert kernel.std() == pytest.approx(1 / np.sqrt(3 * 256), rel=0.05)
    assert not bias.any()


def test_files_of_networks_name_nothing_of_keras_wake(tmp_path):
    for classifier in (
        models.PreActResNet18(width=2),
        models.SmallCNN(),
        models.WideResNet(depth=10, widen_factor=1),
    ):
        classifier.save(tmp_path / "network.keras")
        with zipfile.ZipFile(tmp_path / "network.keras") as file:
            config = file.read("config.json").decode()
        assert "Conv2D" in config and "keras_wake" not in config


def test_channels_first_as_global_format_changes_nothing():
    keras.utils.set_random_seed(4)
    expected = models.PreActResNet18(width=2)
    images = random_images(2, 32, 32, 3)
    keras.config.set_image_data_format("channels_first")
    try:
        classifier = models.PreActResNet18(width=2)
        classifier.set_weights(expected.get_weights())
        logits = logits_of(classifier, images)
    finally:
        keras.config.set_image_data_format("channels_last")
    expected = logits_of(expected, images)
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_normalises_inside():
    images = np.zeros((1, 8, 8, 2), np.float32)
    images[..., 1] = 1
    for mean, std, expected in (
        (None, None, (-1.0, 1.0)),
        (0.25, 0.5, (-0.5, 1.5)),
        ([0.0, 0.5], [1.0, 0.25], (0.0, 2.0)),
    ):
        classifier = models.PreActResNet18(
            input_shape=(8, 8, 2), width=1, mean=mean, std=std
        )
        found = logits_of(classifier.get_layer("normalization"), images)
        np.testing.assert_allclose(found[0, 0, 0], expected, atol=1e-6)


def test_the_shortcut_is_part_of_the_file(tmp_path):
    classifier = models.PreActResNet18(3, (8, 8, 3), width=2, shortcut="raw")
    randomise_batch_norm(classifier)
    other = models.PreActResNet18(3, (8, 8, 3), width=2)
    other.set_weights(classifier.get_weights())
    images = random_images(4, 8, 8, 3)
    expected = logits_of(classifier, images)
    assert np.abs(logits_of(other, images) - expected).max() > 0.01

    classifier.save(tmp_path / "raw.keras")
    loaded = keras.models.load_model(tmp_path / "raw.keras")
    again = keras.Model.from_config(classifier.get_config())
    again.set_weights(classifier.get_weights())
    for network in (loaded, again):
        found = logits_of(network, images)
        np.testing.assert_allclose(found, expected, atol=1e-6)


SHORTCUTS = "`shortcut` must be one of 'preactivated', 'raw'"
PREACT = [
    ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2"),
    ({"num_classes": 2.0}, TypeError, "`num_classes` must be an integer"),
    ({"width": 0}, ValueError, "`width` must be at least 1"),
    ({"input_shape": (32, 32)}, ValueError, r"\(height, width, channels\)"),
    ({"input_shape": (32, None, 3)}, ValueError, "positive integers"),
    ({"input_shape": (0, 32, 3)}, ValueError, "positive integers"),
    ({"input_shape": 32}, ValueError, "positive integers"),
    ({"input_shape": (7, 32, 3)}, ValueError, "at least 8 pixels"),
    ({"mean": (0.5, 0.5)}, ValueError, "`mean` must be a number or one"),
    ({"mean": "half"}, TypeError, "`mean` must be a real number"),
    ({"std": 0.0}, ValueError, "`std` must be greater than 0"),
    ({"final_norm": 1}, TypeError, "`final_norm` must be True or False"),
    ({"shortcut": "Raw"}, ValueError, SHORTCUTS),
    ({"shortcut": None}, ValueError, SHORTCUTS),
    ({"shortcut": True}, ValueError, SHORTCUTS),
]
WIDE = [
    ({"depth": 4}, ValueError, "`depth` must be at least 10"),
    ({"depth": 30}, ValueError, r"`depth` must be 6 n \+ 4.*depth=30"),
    ({"depth": 28.0}, TypeError, "`depth` must be an integer"),
    ({"widen_factor": 0}, ValueError, "`widen_factor` must be at least 1"),
    ({"input_shape": (3, 32, 3)}, ValueError, "at least 4 pixels"),
]
SMALL = [
    ({"widths": (8, 8)}, ValueError, "one entry per convolution"),
    ({"widths": (), "strides": ()}, ValueError, "one entry per convolution"),
    (
        {"widths": (8,), "strides": (0,)},
        ValueError,
        "`strides` must be at least 1",
    ),
    (
        {"widths": (0,), "strides": (1,)},
        ValueError,
        "`widths` must be at least 1",
    ),
    ({"input_shape": (4, 4, 1)}, ValueError, "at least 8 pixels"),
    ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2"),
]
REFUSED = [
    *((models.PreActResNet18, *row) for row in PREACT),
    *((models.WideResNet, *row) for row in WIDE),
    *((models.SmallCNN, *row) for row in SMALL),
]


@pytest.mark.parametrize(("kind", "arguments", "error", "message"), REFUSED)
def test_refuses_bad_arguments(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("value", [8, None, "8"])
def test_small_cnn_refuses_one_number_for_all_convolutions(value):
    for name in ("widths", "strides"):
        message = f"`{name}` must hold one integer per convolution.*{value!r}"
        with pytest.raises(TypeError, match=message):
            models.SmallCNN(**{name: value})

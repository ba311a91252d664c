"""PreActResNet18 against a PyTorch twin, and what all networks share."""

import zipfile

import keras
import numpy as np
import pytest
from torch_twins import copy_to_torch
from torch_twins import preact_resnet18
from torch_twins import randomise_batch_norm

from keras_wake import models


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("side", "training", "shortcut"),
    [
        (32, False, "preactivated"),
        (31, True, "preactivated"),
        (31, False, "raw"),
        (32, True, "raw"),
    ],
)
def test_equals_the_pytorch_twin(side, training, shortcut):
    torch = pytest.importorskip("torch", reason="the twin is in PyTorch")
    keras.utils.set_random_seed(1)
    classifier = models.PreActResNet18(
        7, input_shape=(side, side, 3), width=8, shortcut=shortcut
    )
    randomise_batch_norm(classifier)
    twin = preact_resnet18(8, 7, shortcut=shortcut).train(training)
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
    twin = preact_resnet18(64, 10)
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


@pytest.mark.parametrize(
    "classifier",
    [
        lambda: models.PreActResNet18(width=2),
        lambda: models.SmallCNN(),
        lambda: models.WideResNet(depth=10, widen_factor=1),
    ],
)
def test_files_of_networks_name_nothing_of_keras_wake(classifier, tmp_path):
    classifier().save(tmp_path / "network.keras")
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
        ({"input_shape": 32}, ValueError, "positive integers"),
        ({"input_shape": (7, 32, 3)}, ValueError, "at least 8 pixels"),
        ({"mean": (0.5, 0.5)}, ValueError, "`mean` must be a number or one"),
        ({"mean": "half"}, TypeError, "`mean` must be a real number"),
        ({"std": 0.0}, ValueError, "`std` must be greater than 0"),
        ({"final_norm": 1}, TypeError, "`final_norm` must be True or False"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        models.PreActResNet18(**arguments)


def test_the_shortcut_is_part_of_the_file(tmp_path):
    classifier = models.PreActResNet18(
        3, input_shape=(8, 8, 3), width=2, shortcut="raw"
    )
    randomise_batch_norm(classifier)
    other = models.PreActResNet18(3, input_shape=(8, 8, 3), width=2)
    other.set_weights(classifier.get_weights())
    images = random_images(4, 8, 8, 3)
    expected = keras.ops.convert_to_numpy(classifier(images))
    different = keras.ops.convert_to_numpy(other(images))
    assert np.abs(different - expected).max() > 0.01

    classifier.save(tmp_path / "raw.keras")
    loaded = keras.models.load_model(tmp_path / "raw.keras")
    again = keras.Model.from_config(classifier.get_config())
    again.set_weights(classifier.get_weights())
    for network in (loaded, again):
        found = keras.ops.convert_to_numpy(network(images))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("shortcut", ["Raw", None, True])
def test_a_shortcut_that_is_none_of_the_two(shortcut):
    with pytest.raises(
        ValueError, match=r"`shortcut` must be one of 'preactivated', 'raw'"
    ):
        models.PreActResNet18(width=2, shortcut=shortcut)

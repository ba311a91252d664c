"""WideResNet against a PyTorch twin that is written out beside it."""

import keras
import numpy as np
import pytest
from torch_twins import copy_to_torch
from torch_twins import logits_in_float64
from torch_twins import randomise_batch_norm
from torch_twins import varied_images
from torch_twins import wide_resnet

from keras_wake import models

# Logits up to 22, of a network of at most 16 layers in float32.
TOLERANCE = 1e-4


def small(**arguments):
    """WRN-10-2 with random weights, batch norm included."""
    keras.utils.set_random_seed(1)
    arguments = {"depth": 10, "widen_factor": 2, **arguments}
    classifier = models.WideResNet(7, (16, 16, 3), **arguments)
    randomise_batch_norm(classifier)
    return classifier


def logits_of(classifier, images):
    return keras.ops.convert_to_numpy(classifier(images, training=False))


# Several blocks in a group, and a first group that keeps the 16 channels.
@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 2), (16, 1)])
def test_equals_the_pytorch_twin(depth, widen_factor):
    classifier = small(
        depth=depth, widen_factor=widen_factor, mean=0.0, std=1.0
    )
    twin = wide_resnet(depth, widen_factor, 7).eval()
    copy_to_torch(classifier, twin)
    images = varied_images(4, 16, 16, 3)
    expected = logits_in_float64(twin, images)
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE
    np.testing.assert_allclose(
        logits_of(classifier, images), expected, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("name", "depth", "millions"),
    [
        ("WideResNet28_10", 28, 36.48),
        pytest.param("WideResNet34_10", 34, 46.16, marks=pytest.mark.slow),
    ],
)
def test_number_of_parameters_is_the_published_one(name, depth, millions):
    classifier = getattr(models, name)()
    trainable = sum(
        int(np.prod(weight.shape)) for weight in classifier.trainable_weights
    )
    twin = wide_resnet(depth, 10)
    assert trainable == sum(p.numel() for p in twin.parameters())
    assert round(trainable / 1e6, 2) == millions
    assert classifier.output_shape == (None, 10)
    assert classifier.name == f"wide_resnet{depth}_10"


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
    normalised = classifier.get_layer("normalization")(
        np.ones((1, 8, 12, 2), "float32")
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(normalised), 1.5, atol=1e-6
    )


def test_starts_from_the_published_distribution():
    keras.utils.set_random_seed(0)
    classifier = models.WideResNet(depth=10, widen_factor=4)
    convolutions = [
        layer
        for layer in classifier.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert len(convolutions) == 1 + 3 * 2 + 3
    for layer in convolutions:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        area, filters = np.prod(kernel.shape[:2]), kernel.shape[-1]
        # Of at least 432 numbers: the standard error is below 4 %.
        expected = np.sqrt(2 / (area * filters))
        assert kernel.std() == pytest.approx(expected, rel=0.12), layer.name
    kernel, bias = classifier.get_layer("fc").get_weights()
    assert np.abs(kernel).max() <= 1 / np.sqrt(256)
    assert kernel.std() == pytest.approx(1 / np.sqrt(3 * 256), rel=0.05)
    assert not bias.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"depth": 4}, ValueError, "`depth` must be at least 10"),
        ({"depth": 30}, ValueError, r"`depth` must be 6 n \+ 4.*depth=30"),
        ({"depth": 28.0}, TypeError, "`depth` must be an integer"),
        ({"widen_factor": 0}, ValueError, "`widen_factor` must be at least 1"),
        ({"input_shape": (3, 32, 3)}, ValueError, "at least 4 pixels"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        models.WideResNet(**arguments)

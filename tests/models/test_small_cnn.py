"""SmallCNN: its layers, its sizes and its errors."""

import keras
import numpy as np
import pytest

from keras_wake import models


def test_has_the_default_layout():
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


def test_equals_a_pytorch_twin():
    torch = pytest.importorskip("torch", reason="the twin is in PyTorch")
    keras.utils.set_random_seed(0)
    classifier = models.SmallCNN(5, (9, 8, 1), widths=(4, 6), strides=(2, 1))
    images = np.random.default_rng(1).random((3, 9, 8, 1), np.float32)
    kernels = [
        torch.tensor(
            keras.ops.convert_to_numpy(
                classifier.get_layer(name).kernel
            ).transpose(3, 2, 0, 1)
        )
        for name in ("conv1", "conv2")
    ]
    x = (torch.tensor(images.transpose(0, 3, 1, 2)) - 0.5) / 0.5
    for kernel, stride in zip(kernels, (2, 1), strict=True):
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
        x = torch.relu(x / np.sqrt(1 + 1e-5))
    kernel, bias = (
        torch.tensor(weight) for weight in classifier.get_weights()[-2:]
    )
    expected = x.mean((2, 3)) @ kernel + bias
    logits = keras.ops.convert_to_numpy(classifier(images))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8, 8)}, "one entry per convolution"),
        ({"widths": (), "strides": ()}, "one entry per convolution"),
        ({"widths": (8,), "strides": (0,)}, "`strides` must be at least 1"),
        ({"widths": (0,), "strides": (1,)}, "`widths` must be at least 1"),
        ({"input_shape": (4, 4, 1)}, "at least 8 pixels"),
        ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.SmallCNN(**arguments)


@pytest.mark.parametrize("name", ["widths", "strides"])
@pytest.mark.parametrize("value", [8, None, "8"])
def test_refuses_one_number_for_all_convolutions(name, value):
    message = f"`{name}` must hold one integer per convolution.*{value!r}"
    with pytest.raises(TypeError, match=message):
        models.SmallCNN(**{name: value})

"""load_pytorch_weights: networks of PyTorch in their published layouts."""

import sys

import keras
import numpy as np
import pytest
from torch_twins import assert_refused
from torch_twins import import_torch
from torch_twins import logits_in_float64
from torch_twins import logits_of
from torch_twins import preact_resnet18
from torch_twins import synthetic_state
from torch_twins import varied_images
from torch_twins import wide_resnet
from torch_twins import with_random_statistics

import keras_wake as kw
from keras_wake.models import load_pytorch_weights

# Logits of order 1, of a network of 18 layers in float32.
TOLERANCE = 1e-4


def random_twin(width=4, num_classes=3, final_norm=True, **kwargs):
    import_torch().manual_seed(3)
    return with_random_statistics(
        preact_resnet18(width, num_classes, final_norm, **kwargs)
    )


def narrow(**kwargs):
    return kw.models.PreActResNet18(3, (16, 16, 3), width=4, **kwargs)


def ten_classes(width=2):
    return kw.models.PreActResNet18(10, (8, 8, 3), width=width)


def load_without_reference(classifier, checkpoint):
    with pytest.warns(UserWarning, match=r"does not specify .*`reference="):
        load_pytorch_weights(classifier, checkpoint)


def assert_equal_logits(classifier, twin):
    images = varied_images(4, *classifier.input_shape[1:])
    expected = logits_in_float64(twin, images)
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE
    np.testing.assert_allclose(
        logits_of(classifier, images), expected, atol=TOLERANCE
    )


def test_preact_resnet18_of_full_size_and_its_attribution(tmp_path):
    torch = import_torch()
    twin = random_twin(width=64, num_classes=10)
    torch.save(twin.state_dict(), tmp_path / "model.pth")
    classifier = kw.models.PreActResNet18()
    load_without_reference(classifier, tmp_path / "model.pth")
    assert_equal_logits(classifier, twin)

    images = varied_images(12, 32, 32, 3)
    labels = np.arange(12) % 10
    # Continuous in the gradient, unlike the sign of an attack in ℓ∞.
    attack = kw.attacks.PGD("l2", 0.5, 0.5, steps=1, random_start=False)
    matrix = kw.attribution.correlation_matrix(
        classifier, (images, labels), attack
    )

    twin = twin.double()
    x = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float64)
    x.requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        twin(x), torch.tensor(labels), reduction="sum"
    )
    (gradient,) = torch.autograd.grad(loss, x)
    norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        attacked = (x + 0.5 * gradient / norm).clamp(0, 1)
        attributions = twin.features(attacked) * twin.linear.weight[labels]
        vectors = torch.stack(
            [attributions[labels == k].mean(0) for k in range(10)]
        )
        expected = torch.nn.functional.cosine_similarity(
            vectors[:, None], vectors[None], dim=-1
        ).numpy()
    assert np.abs(expected - np.eye(10)).max() > 0.01
    # Errors of float32 in the gradient go through the network a second time.
    np.testing.assert_allclose(matrix, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("prefix", "nested"),
    [
        ("", None),
        ("module.", None),
        ("_orig_mod.module.", "state_dict"),
        ("", "model_state_dict"),
        ("model.", "net"),
        ("encoder.base.", None),
        ("1.", None),
        ("module.1.", "state_dict"),
    ],
)
def test_wrapped_checkpoints(prefix, nested):
    twin = random_twin()
    state = {prefix + k: v for k, v in twin.state_dict().items()}
    checkpoint = {nested: state, "epoch": 7} if nested else state
    classifier = narrow()
    load_without_reference(classifier, checkpoint)
    assert_equal_logits(classifier, twin)


def test_checkpoint_without_last_batch_norm():
    twin = random_twin(final_norm=False)
    classifier = narrow(final_norm=False)
    load_without_reference(classifier, twin.state_dict())
    assert_equal_logits(classifier, twin)

    message = assert_refused(
        narrow(), twin.state_dict(), r"Missing: bn\.weight \(32,\)"
    )
    assert "PreActResNet18(3, width=4, final_norm=False)" in message
    message = assert_refused(
        classifier, random_twin().state_dict(), r"Left over: bn\.weight"
    )
    assert "`PreActResNet18(3, width=4)`" in message


def test_wide_resnet_of_trades(tmp_path):
    torch = import_torch()
    torch.manual_seed(5)
    twin = with_random_statistics(wide_resnet(10, 2, 7, unused_block=True))
    state = {f"module.{k}": v for k, v in twin.state_dict().items()}
    assert any(key.startswith("module.sub_block1.") for key in state)
    torch.save(state, tmp_path / "model_cifar_wrn.pt")
    classifier = kw.models.WideResNet(
        7, (16, 16, 3), depth=10, widen_factor=2, mean=0.0, std=1.0
    )
    load_without_reference(classifier, str(tmp_path / "model_cifar_wrn.pt"))
    assert_equal_logits(classifier, twin)


def test_half_precision_on_file():
    torch = import_torch()
    twin = random_twin()
    state = {
        key: value.to(torch.bfloat16) if value.is_floating_point() else value
        for key, value in twin.state_dict().items()
    }
    twin.load_state_dict(state)
    classifier = narrow()
    load_without_reference(classifier, state)
    assert_equal_logits(classifier, twin)


def test_arrays_need_no_torch(monkeypatch):
    classifier = ten_classes()
    state = synthetic_state(classifier)
    monkeypatch.setitem(sys.modules, "torch", None)
    load_without_reference(classifier, state)
    kernel = classifier.get_layer("layer2_0_shortcut").kernel
    expected = state["layer2.0.shortcut.0.weight"]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(kernel)[0, 0], expected[:, :, 0, 0].T
    )
    variance = classifier.get_layer("bn").moving_variance
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(variance), state["bn.running_var"]
    )
    with pytest.raises(ImportError, match=r"keras-wake\[torch\]"):
        load_pytorch_weights(classifier, "model.pth")


def test_nothing_is_loaded_where_something_does_not_fit():
    classifier = ten_classes()
    state = synthetic_state(classifier)
    del state["layer3.1.bn2.running_var"]
    state["fc.weight"] = state["linear.weight"]
    state["conv1.weight"] = np.zeros((64, 3, 3, 3), "float32")
    message = assert_refused(classifier, state, "does not fit")
    assert "Missing: layer3.1.bn2.running_var (8,). " in message
    assert "Left over: fc.weight (10, 16). " in message
    assert (
        "Of another shape: conv1.weight (64, 3, 3, 3), not (2, 3, 3, 3). "
        in message
    )
    assert "final_norm" not in message
    linear = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    state = {"linear.weight": np.zeros((2, 4))}
    assert_refused(linear, state, r"Missing: dense.*\.weight \(2, 4\)")


def test_long_lists_are_cut():
    classifier = kw.models.SmallCNN(widths=(4,) * 5)
    state = synthetic_state(ten_classes())
    assert_refused(classifier, state, r"Left over: .*; and \d+ more\. ")
    # A network of another width.
    message = assert_refused(
        ten_classes(),
        synthetic_state(ten_classes(width=4)),
        r"and \d+ more\. .*`PreActResNet18\(10, width=4\)`",
    )
    assert message.count(", not (") == 10


def test_bad_arguments():
    classifier = kw.models.SmallCNN()
    with pytest.raises(TypeError, match="`model` must be a network"):
        load_pytorch_weights("model.pth", classifier)
    with pytest.raises(TypeError, match=r"module\.state_dict\(\).*type list"):
        load_pytorch_weights(classifier, [1, 2])
    model = kw.WakeModel(classifier, kw.attacks.PGD())
    with pytest.raises(TypeError, match=r"holds two.*`\.classifier`"):
        load_pytorch_weights(model, synthetic_state(classifier))
    with pytest.raises(TypeError, match="type Linear"):
        load_pytorch_weights(classifier, import_torch().nn.Linear(1, 1))


@pytest.mark.parametrize(
    "names",
    [
        ("0.mean", "0.std", "1."),
        ("mean", "std", "model."),
        ("mu", "sigma", ""),
        ("normalize.mean", "normalize.std", "model."),
    ],
)
def test_a_wrapper_that_normalises_must_agree(names):
    mean, std, prefix = names
    values = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    twin = random_twin()
    state = {prefix + k: v.numpy() for k, v in twin.state_dict().items()}
    state[mean] = np.float32(values["mean"]).reshape(1, 3, 1, 1)
    state[std] = np.float32(values["std"])
    classifier = narrow(**values)
    load_without_reference(classifier, {f"module.{k}": state[k] for k in state})
    kernel = keras.ops.convert_to_numpy(classifier.get_layer("conv1").kernel)
    np.testing.assert_array_equal(
        kernel.transpose(3, 2, 0, 1), state[f"{prefix}conv1.weight"]
    )
    message = r"by std=\[0\.2, 0\.3, 0\.25\], and .* by std=\[0\.2"
    assert_refused(narrow(mean=values["mean"]), state, message)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    classifier = ten_classes()
    state = synthetic_state(classifier)
    state["layer2.1.conv1.weight"][0, 0, 0, 0] = value
    assert_refused(classifier, state, r"In: layer2\.1\.conv1\.weight\. ")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    torch = import_torch()
    classifier = kw.models.SmallCNN()
    path = tmp_path / "model_best.pth"
    with pytest.raises(FileNotFoundError, match=r"model_best\.pth"):
        load_pytorch_weights(classifier, path)
    html = b"<html>not found</html>"
    for content in (b"", b"e", b"garbage", html, b"\x80\x02"):
        path.write_bytes(content)
        message = assert_refused(classifier, path, r"model_best\.pth")
        assert "PyTorch says: " in message
    # A file that could run code.
    torch.save(torch.nn.Linear(1, 1), path)
    message = assert_refused(classifier, path, r"weights_only=False")
    assert "PyTorch says" in message
    assert "\x1b" not in message  # No colours.

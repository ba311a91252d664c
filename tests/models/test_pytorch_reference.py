"""load_pytorch_weights with a reference: networks that only look alike."""

import numpy as np
import pytest
from small import assert_same
from torch_twins import assert_refused
from torch_twins import import_torch
from torch_twins import logits_of
from torch_twins import preact_resnet18
from torch_twins import synthetic_state
from torch_twins import varied_images
from torch_twins import wide_resnet
from torch_twins import with_random_statistics

import keras_wake as kw
from keras_wake.models import load_pytorch_weights

IMAGES = varied_images(4, 8, 8, 3)
FORMS = ("preactivated", "raw")


def preact(**kwargs):
    return kw.models.PreActResNet18(3, (8, 8, 3), width=4, **kwargs)


def wide(**kwargs):
    arguments = {"mean": 0.0, "std": 1.0, **kwargs}
    return kw.models.WideResNet(
        3, (8, 8, 3), depth=10, widen_factor=1, **arguments
    )


def twin_and_reference(twin):
    """A network in PyTorch, and its images and logits as it has them."""
    torch = import_torch()
    twin = with_random_statistics(twin)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    with torch.no_grad():
        return twin, (images, twin(images))


@pytest.fixture(scope="module")
def state():
    """A state dict that fits `preact()`, made without PyTorch."""
    return synthetic_state(preact(), 0.1, 0.5)


def logits_with(state):
    """The logits of `preact()` with these weights."""
    classifier = preact()
    with pytest.warns(UserWarning, match="does not specify"):
        load_pytorch_weights(classifier, state)
    return logits_of(classifier, IMAGES)


@pytest.mark.parametrize("form", FORMS)
def test_tells_the_two_shortcuts_apart(form):
    import_torch().manual_seed(0)
    twin, reference = twin_and_reference(preact_resnet18(4, 3, shortcut=form))
    classifier = preact(shortcut=form)
    load_pytorch_weights(classifier, twin.state_dict(), reference=reference)
    # Float32 through 18 layers; the logits are of order 1.
    np.testing.assert_allclose(
        logits_of(classifier, IMAGES), reference[1].numpy(), atol=1e-4
    )
    (other,) = set(FORMS) - {form}
    message = assert_refused(
        preact(shortcut=other),
        twin.state_dict(),
        r"differ from those of `reference` by up to",
        reference=reference,
    )
    assert f"this network has '{other}'" in message
    assert f"`PreActResNet18(shortcut='{form}')`" in message


def test_tells_normalisations_apart():
    import_torch().manual_seed(0)
    twin, reference = twin_and_reference(wide_resnet(10, 1, 3))
    load_pytorch_weights(wide(), twin.state_dict(), reference=reference)
    for other in ({"mean": 0.5, "std": 0.5}, {"mean": 0.1}, {"std": 0.95}):
        message = assert_refused(
            wide(**other),
            twin.state_dict(),
            r"`mean=` and `std=`",
            reference=reference,
        )
        assert "shortcut" not in message


def test_images_may_have_their_channels_last_or_first(state):
    logits = logits_with(state)
    for images in (IMAGES, IMAGES.transpose(0, 3, 1, 2)):
        load_pytorch_weights(preact(), state, reference=(images, logits))
    # A batch of another size than that of the comparison.
    many = np.concatenate([IMAGES] * 17), np.concatenate([logits] * 17)
    load_pytorch_weights(preact(), state, reference=many)


def test_rounding_of_a_gpu_is_accepted_and_more_is_not(state):
    logits = logits_with(state)
    size = np.abs(logits).max()
    near, far = logits.copy(), logits.copy()
    near[1, 2] += 0.0025 * size
    far[1, 2] += 0.0035 * size
    load_pytorch_weights(preact(), state, reference=(IMAGES, near))
    assert_refused(preact(), state, "by up to", reference=(IMAGES, far))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z: (x[:3], z), r"\(n, 8, 8, 3\).*\(3, 8, 8, 3\) and \(4,"),
        (lambda x, z: (x[:, :7], z), r"Received: shapes \(4, 7, 8, 3\)"),
        (lambda x, z: (x, z[:, :2]), r"\(n, 3\).*\(4, 2\)"),
        (lambda x, z: (x[:0], z[:0]), r"shapes \(0, 8, 8, 3\)"),
        (lambda x, z: (255 * x, z), r"in \[0, 1\].*values from"),
        (lambda x, z: (x - 0.5, z), r"in \[0, 1\].*values from -0\."),
        (lambda x, z: (x, z * np.inf), "must be finite"),
    ],
)
def test_refuses_what_is_no_reference(state, change, message):
    reference = change(IMAGES, np.ones((4, 3), "float32"))
    assert_refused(preact(), state, message, reference=reference)


@pytest.mark.parametrize("reference", [IMAGES, "yes", (IMAGES,), True])
def test_refuses_what_is_no_pair(state, reference):
    with pytest.raises(TypeError, match=r"a pair \(images, logits\)"):
        load_pytorch_weights(preact(), state, reference=reference)


def test_an_interrupted_comparison_leaves_the_weights_as_they_were(
    state, monkeypatch
):
    def interrupted(*args):
        raise KeyboardInterrupt

    compare = "keras_wake.models.pytorch_weights._compare"
    monkeypatch.setattr(compare, interrupted)
    classifier = preact()
    before = [np.array(weight) for weight in classifier.get_weights()]
    reference = IMAGES, np.ones((4, 3), "float32")
    with pytest.raises(KeyboardInterrupt):
        load_pytorch_weights(classifier, state, reference=reference)
    assert_same(classifier.get_weights(), before)


def test_the_warning_names_what_a_file_leaves_open(state):
    with pytest.warns(UserWarning, match="does not specify") as caught:
        load_pytorch_weights(preact(shortcut="raw"), state)
    (warning,) = (each for each in caught if each.category is UserWarning)
    assert warning.filename == __file__
    message = str(warning.message)
    assert "this network has 'raw'" in message
    assert "`mean=` and `std=`" in message and "activation" in message

    normalised = {**state, "mu": np.full(3, 0.4), "sigma": np.full(3, 0.2)}
    message = "does not specify the shortcut"
    with pytest.warns(UserWarning, match=message) as caught:
        load_pytorch_weights(preact(mean=0.4, std=0.2), normalised)
    assert "normalised" not in str(caught[0].message)
    message = r"pixels by mean=\[0\.4, 0\.4, 0\.4\]"
    assert_refused(preact(), normalised, message)

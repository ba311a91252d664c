"""PGD against PyTorch, its guarantees, and what it must leave alone."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats
from small import data
from small import network

from keras_wake import backend
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.utils.seeds import CounterSeed

SETTINGS = {"linf": (0.1, 0.03), "l2": (0.6, 0.2)}


def _torch_pgd(classifier, x, y, norm, epsilon, step_size, steps, training):
    """PGD on the `classifier` fixture, in PyTorch, in float64."""
    reason = "the reference is written in PyTorch"
    torch = pytest.importorskip("torch", reason=reason)

    def weights(name):
        values = classifier.get_layer(name).get_weights()
        return [torch.tensor(value, dtype=torch.float64) for value in values]

    kernel, kernel_bias = weights("conv")
    gamma, beta, mean, variance = weights("norm")
    head, head_bias = weights("head")

    def logits(x):
        x = torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2),
            kernel.permute(3, 2, 0, 1),
            kernel_bias,
            padding=1,
        )
        running = mean.clone(), variance.clone()
        x = torch.nn.functional.batch_norm(
            x, *running, gamma, beta, training=training, eps=1e-5
        )
        return torch.relu(x).mean((2, 3)) @ head + head_bias

    x = torch.tensor(x, dtype=torch.float64)
    y = torch.tensor(y, dtype=torch.int64)
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(
            logits(x_adv), y, reduction="sum"
        )
        (gradient,) = torch.autograd.grad(loss, x_adv)
        with torch.no_grad():
            if norm == "linf":
                delta = x_adv + step_size * gradient.sign() - x
                delta = delta.clamp(-epsilon, epsilon)
            else:
                length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                delta = x_adv + step_size * gradient / length - x
                delta = torch.renorm(delta, 2, 0, epsilon)
            x_adv = (x + delta).clamp(0, 1)
    return x_adv.detach().numpy()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [False, True])
def test_equals_pytorch(classifier, images, labels, norm, training):
    if training:
        # Dropout draws other masks in PyTorch.
        classifier.layers[3].rate = 0
    settings = (norm, *SETTINGS[norm], 7)
    attack = PGD(*settings, random_start=False, training=training)
    expected = _torch_pgd(classifier, images, labels, *settings, training)
    found = to_numpy(attack(classifier, images, labels))
    # The images reach the ball and the bounds, else less would be tested.
    assert np.any(expected == 0) and np.any(expected == 1)
    size = to_numpy(attack.threat_model.size(expected - images))
    assert np.max(size) > 0.999 * attack.epsilon
    # Float32 against float64 over seven steps. For linf a sign that flips
    # would be an error of the step size, for l2 the gradient is divided by
    # its norm.
    tolerance = 1e-6 if norm == "linf" else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_image_is_attacked_for_itself(classifier, images, labels, norm):
    epsilon, step_size = SETTINGS[norm]
    attack = PGD(norm, epsilon, step_size, 5, random_start=False)
    together = np.asarray(attack(classifier, images, labels))
    # Float32: a convolution may add in another order for another size.
    for size in (1, 3):
        alone = to_numpy(attack(classifier, images[:size], labels[:size]))
        np.testing.assert_allclose(alone, together[:size], atol=1e-6)

    others = images.copy()
    others[1:] = 1 - others[1:]
    among_others = to_numpy(attack(classifier, others, labels))
    np.testing.assert_allclose(among_others[0], together[0], atol=1e-6)
    assert np.max(np.abs(among_others[1:] - together[1:])) > 0.1


@pytest.mark.usefixtures("eagerly")
def test_leaves_the_global_random_numbers(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=1)
    keras.utils.set_random_seed(0)
    expected = np.asarray(keras.random.uniform((3,))), np.random.random(3)
    keras.utils.set_random_seed(0)
    attack(classifier, images, labels, seed=5)
    found = np.asarray(keras.random.uniform((3,))), np.random.random(3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("eagerly")
def test_the_seed_decides_the_random_start(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=2)

    def run(seed):
        return np.asarray(attack(classifier, images, labels, seed=seed))

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))
    assert not np.array_equal(run(None), run(None))


@pytest.mark.usefixtures("eagerly")
def test_no_steps_and_no_radius_return_the_images(classifier, images, labels):
    for norm in ("linf", "l2"):
        for attack in (
            PGD(norm, epsilon=0.5, steps=0),
            PGD(norm, epsilon=0, step_size=0.5, steps=2),
        ):
            x_adv = attack(classifier, images, labels)
            np.testing.assert_array_equal(x_adv, images)


def test_a_zero_gradient_leaves_the_start(images, labels):
    # 0 / 0 for l2, and where the distribution of the start shows in a call.
    def constant(x, training=False):
        return ops.zeros((ops.shape(x)[0], 3)) * ops.sum(x)

    one_hot = np.eye(3, dtype="float32")[labels]
    grey = np.full_like(images, 0.5)
    for norm in ("linf", "l2"):
        attack = PGD(norm, epsilon=0.2, steps=3)
        draw = attack.threat_model.random_perturbation
        start = to_numpy(draw(grey, CounterSeed(1)))
        x_adv = attack.perturb(constant, grey, one_hot, CounterSeed(1))
        assert np.max(np.abs(start)) > 0.01
        # Rounding of x + δ.
        np.testing.assert_allclose(x_adv, grey + start, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "epsilon", "step_size"),
    # Section 7 of the source: eight and two grey levels, 128 and 16 in l2.
    [("linf", 8 / 255, 2 / 255), ("l2", 128 / 255, 16 / 255)],
)
def test_the_defaults_are_the_published_ones(norm, epsilon, step_size):
    for attack, steps in (PGD(norm), 10), (PGD.for_evaluation(PGD(norm)), 20):
        assert attack.random_start and not attack.training
        assert attack.bounds == (0.0, 1.0)
        assert attack.epsilon == pytest.approx(epsilon, rel=1e-12)
        assert attack.step_size == pytest.approx(step_size, rel=1e-12)
        assert attack.steps == steps


def test_evaluation_keeps_the_threat_model():
    linf = PGD.for_evaluation(FGSM(epsilon=0.2, bounds=(-1, 1)))
    assert type(linf) is PGD and linf.random_start and not linf.training
    assert (linf.norm, linf.epsilon, linf.bounds) == ("linf", 0.2, (-1.0, 1.0))
    assert (linf.steps, linf.step_size) == (20, 0.05)
    l2 = PGD.for_evaluation(PGD("l2", 128 / 255), steps=50)
    assert (l2.norm, l2.epsilon, l2.steps) == ("l2", 128 / 255, 50)
    assert l2.step_size == 16 / 255


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["epsilon", "step_size"])
def test_refuses_a_length_that_the_images_do_not_have(
    classifier, images, labels, name
):
    attack = PGD("l2", **{"epsilon": 0.5, name: 128})
    with pytest.raises(
        ValueError, match=rf"`{name}` must be at most 6.*{name}=128\.0.*128/255"
    ):
        attack(classifier, images, labels)


def test_puts_the_halves_of_a_batch_together():
    for images in 1, 2, 7:
        x = ops.reshape(ops.arange(images * 3, dtype="float32"), (images, 3))
        y, sizes = ops.arange(images, dtype="float32"), []

        def add(x, y, sizes=sizes):
            sizes.append(len(x))
            return x + y[:, None]

        sums = backend.side_by_side(add, x, y)
        np.testing.assert_array_equal(sums, x + y[:, None])
        # oneDNN fails on a batch without images.
        assert min(sizes) > 0


class Cut(keras.layers.Layer):
    """Passes its input on, and no gradient."""

    def call(self, inputs):
        return keras.ops.stop_gradient(inputs)


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX has a gradient of 0 where there is none",
)
def test_says_that_a_classifier_has_no_gradient():
    classifier, (x, y) = network(lambda: [Cut()]), data(2)
    with pytest.raises(ValueError, match="no gradient with respect to"):
        PGD(epsilon=0.1)(classifier, x, y)


@pytest.mark.usefixtures("eagerly")
def test_kl_start_is_gaussian_of_the_published_size(classifier):
    def start(norm, epsilon, value, seed=0):
        """δ_0: with steps of length 0 the attack stays there."""
        attack = PGD(norm, epsilon, step_size=0.0, steps=1, loss="kl")
        x = np.full((200, 6, 6, 1), value, "float32")
        labels = np.zeros(len(x), "int32")
        return (to_numpy(attack(classifier, x, labels, seed)) - x).ravel()

    for norm, epsilon in ("linf", 0.03), ("l2", 0.5):
        # In the middle of [0, 1], so that nothing is clipped.
        found = start(norm, epsilon, 0.5)
        # 7200 values: 4 standard errors of the deviation are 3.4 %.
        assert found.std() == pytest.approx(1e-3, rel=0.034)
        assert abs(found.mean()) < 4 * 1e-3 / np.sqrt(found.size)
        assert stats.kstest(found / 1e-3, "norm").pvalue > 1e-3
        other = start(norm, epsilon, 0.5, seed=1)
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.1
    # Clipped to the ball and to the pixels.
    found = start("linf", 5e-4, 0.0)
    assert found.min() == 0
    assert found.max() == pytest.approx(5e-4, rel=1e-4)

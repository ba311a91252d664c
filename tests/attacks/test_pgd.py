"""PGD against PyTorch, its guarantees, and what it must leave alone."""

import keras
import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from keras_wake import backend
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.utils.seeds import CounterSeed

SETTINGS = {"linf": (0.1, 0.03), "l2": (0.6, 0.2)}


def _without_dropout(classifier):
    """The same layers: dropout draws other masks in PyTorch."""
    kept = [
        layer
        for layer in classifier.layers
        if not isinstance(layer, keras.layers.Dropout)
    ]
    return keras.Sequential([keras.Input(classifier.input_shape[1:]), *kept])


class TorchTwin:
    """The `classifier` fixture and PGD on it, in PyTorch, in float64."""

    def __init__(self, classifier):
        reason = "the reference is written in PyTorch"
        self.torch = pytest.importorskip("torch", reason=reason)

        def weights(name):
            return [
                self.torch.tensor(weight, dtype=self.torch.float64)
                for weight in classifier.get_layer(name).get_weights()
            ]

        self.conv, self.conv_bias = weights("conv")
        self.norm = weights("norm")
        self.head, self.head_bias = weights("head")

    def logits(self, x, training):
        functional = self.torch.nn.functional
        gamma, beta, mean, variance = self.norm
        x = functional.conv2d(
            x.permute(0, 3, 1, 2),
            self.conv.permute(3, 2, 0, 1),
            self.conv_bias,
            padding=1,
        )
        x = functional.batch_norm(
            x,
            mean.clone(),
            variance.clone(),
            gamma,
            beta,
            training=training,
            eps=1e-5,
        )
        x = self.torch.relu(x).mean((2, 3))
        return x @ self.head + self.head_bias

    def pgd(self, x, y, norm, epsilon, step_size, steps, training=False):
        torch = self.torch
        x = torch.tensor(x, dtype=torch.float64)
        y = torch.tensor(y, dtype=torch.int64)
        x_adv = x.clone()
        for _ in range(steps):
            x_adv.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(
                self.logits(x_adv, training), y, reduction="sum"
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
        classifier = _without_dropout(classifier)
    epsilon, step_size = SETTINGS[norm]
    attack = PGD(
        norm, epsilon, step_size, 7, random_start=False, training=training
    )
    expected = TorchTwin(classifier).pgd(
        images, labels, norm, epsilon, step_size, 7, training
    )
    found = to_numpy(attack(classifier, images, labels))
    # The images reach the ball and the bounds, else less would be tested.
    assert np.any(expected == 0) and np.any(expected == 1)
    size = to_numpy(attack.threat_model.size(expected - images))
    assert np.max(size) > 0.999 * epsilon
    # Float32 against float64 over seven steps. For linf a sign that flips
    # would be an error of the step size, for l2 the gradient is divided by
    # its norm.
    tolerance = 1e-6 if norm == "linf" else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_training_mode_makes_a_difference(classifier, images, labels):
    # Otherwise the test above would hold for a flag that does nothing.
    classifier = _without_dropout(classifier)
    runs = [
        to_numpy(
            PGD("l2", 0.6, random_start=False, steps=2, training=training)(
                classifier, images, labels
            )
        )
        for training in (False, True)
    ]
    assert np.max(np.abs(runs[0] - runs[1])) > 1e-3


def _tiny_network(features, seed):
    """A function of images of any shape, with gradients of any size."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(features, 4)).astype("float32") * 3
    second = rng.normal(size=(4, 3)).astype("float32") * 3

    def network(x, training=False):
        x = ops.reshape(x, (-1, features))
        return ops.matmul(ops.tanh(ops.matmul(x, first)), second)

    return network


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    batch=st.integers(1, 4),
    low=st.floats(-1, 0.5),
    width=st.floats(1e-3, 0.5),
    epsilon=st.floats(0, 1),
    step_size=st.floats(0, 1),
    steps=st.integers(0, 4),
    random_start=st.booleans(),
    seed=st.integers(0, 2**31),
)
@example("l2", [5, 5, 5], 4, -1.0, 2.0, 1.0, 1.0, 4, True, 0)
@example("linf", [5, 5, 5], 4, -1.0, 2.0, 0.1, 1.0, 4, True, 0)
@example("l2", [3], 2, 0.0, 1.0, 1e-8, 1.0, 2, True, 0)
def test_stays_inside_ball_and_bounds(
    norm,
    shape,
    batch,
    low,
    width,
    epsilon,
    step_size,
    steps,
    random_start,
    seed,
):
    high = low + width
    largest = width * (np.sqrt(np.prod(shape)) if norm == "l2" else 1)
    # As shares of the largest distance that two images can have.
    attack = PGD(
        norm,
        epsilon * largest,
        step_size * largest,
        steps,
        random_start,
        bounds=(low, high),
    )
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, size=(batch, *shape))
    x[rng.random(x.shape) < 0.2] = low
    x[rng.random(x.shape) < 0.2] = high
    x = x.astype("float32")
    labels = np.eye(3, dtype="float32")[rng.integers(0, 3, batch)]
    network = _tiny_network(int(np.prod(shape)), seed)

    x_adv = np.asarray(attack.perturb(network, x, labels, CounterSeed(seed)))

    assert x_adv.dtype == "float32" and x_adv.shape == x.shape
    assert x_adv.min() >= low - 1e-6 and x_adv.max() <= high + 1e-6
    delta = (x_adv.astype("float64") - x).reshape(batch, -1)
    size = np.linalg.norm(delta, 2 if norm == "l2" else np.inf, axis=1)
    # Relative above 1, where float32 itself is no finer.
    assert size.max() <= attack.epsilon + 1e-6 * max(1, attack.epsilon)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_stays_inside_in_grey_levels(norm):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (4, 5, 5, 3)).astype("float32")
    labels = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    epsilon = {"linf": 8, "l2": 128}[norm]
    attack = PGD(norm, epsilon, steps=3, bounds=(0, 255))
    network = _tiny_network(75, 0)
    x_adv = np.asarray(attack.perturb(network, x, labels, CounterSeed(0)))
    assert x_adv.min() >= 0 and x_adv.max() <= 255
    delta = (x_adv.astype("float64") - x).reshape(4, -1)
    size = np.linalg.norm(delta, 2 if norm == "l2" else np.inf, axis=1)
    # 1e-6 of the range: float32's step at 255 is 1.5e-5.
    assert size.max() <= epsilon + 255e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_image_is_attacked_for_itself(classifier, images, labels, norm):
    epsilon, step_size = SETTINGS[norm]
    attack = PGD(norm, epsilon, step_size, 5, random_start=False)
    together = np.asarray(attack(classifier, images, labels))
    one_by_one = [
        np.asarray(attack(classifier, images[i : i + 1], labels[i : i + 1]))
        for i in range(len(images))
    ]
    # Float32: a convolution may add in another order for another size.
    np.testing.assert_allclose(np.concatenate(one_by_one), together, atol=1e-6)

    others = images.copy()
    others[1:] = 1 - others[1:]
    among_others = to_numpy(attack(classifier, others, labels))
    np.testing.assert_allclose(among_others[0], together[0], atol=1e-6)
    assert np.max(np.abs(among_others[1:] - together[1:])) > 0.1


def test_the_size_of_a_batch_does_not_scale_the_gradient():
    # Here it is about 1e-9, as of a classifier that is sure and right.
    weights = np.float32(10) * np.array([[1, -1], [1, -1]], "float32")

    def sure(x, training=False):
        return ops.matmul(x, ops.convert_to_tensor(weights))

    x = np.full((50, 2), 0.6, "float32")
    labels = np.tile(np.float32([1, 0]), (50, 1))
    attack = PGD("l2", 0.1, 0.1, steps=1, random_start=False)
    alone, among_others = (
        np.asarray(attack.perturb(sure, x[:n], labels[:n], CounterSeed(0)))[0]
        for n in (1, 50)
    )
    np.testing.assert_allclose(np.linalg.norm(alone - x[0]), 0.1, rtol=1e-5)
    np.testing.assert_allclose(among_others, alone, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_leaves_the_state_of_the_classifier(
    classifier, images, labels, training
):
    classifier.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.train_on_batch(images, labels)
    variables = classifier.variables + classifier.optimizer.variables
    paths = " ".join(variable.path for variable in variables)
    for part in ("moving_mean", "moving_var", "seed_generator", "momentum"):
        assert part in paths
    before = [np.copy(np.asarray(variable)) for variable in variables]
    attack = PGD(epsilon=0.1, steps=3, training=training)
    first = to_numpy(attack(classifier, images, labels, seed=0))
    again = to_numpy(attack(classifier, images, labels, seed=0))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert not classifier.losses
    # Nor is there any other state: with dropout, too, it repeats itself.
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - images)) > 0.09


def test_leaves_the_global_random_numbers(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=1)
    keras.utils.set_random_seed(0)
    expected = np.asarray(keras.random.uniform((3,))), np.random.random(3)
    keras.utils.set_random_seed(0)
    attack(classifier, images, labels, seed=5)
    found = np.asarray(keras.random.uniform((3,))), np.random.random(3)
    np.testing.assert_array_equal(found, expected)


def test_the_seed_decides_the_random_start(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=2)

    def run(seed):
        return np.asarray(attack(classifier, images, labels, seed=seed))

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))
    assert not np.array_equal(run(None), run(None))


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
        start, x_adv = map(
            to_numpy,
            (
                attack.threat_model.random_perturbation(grey, CounterSeed(1)),
                attack.perturb(constant, grey, one_hot, CounterSeed(1)),
            ),
        )
        assert np.max(np.abs(start)) > 0.01
        # Rounding of x + δ.
        np.testing.assert_allclose(x_adv, grey + start, atol=1e-6)


def test_defaults_are_those_of_training():
    attack = PGD()
    assert (attack.norm, attack.steps) == ("linf", 10)
    assert attack.random_start and not attack.training
    assert attack.epsilon == 8 / 255 and attack.step_size == 2 / 255
    assert attack.bounds == (0.0, 1.0)


def test_evaluation_keeps_the_threat_model():
    linf = PGD.for_evaluation(FGSM(epsilon=0.2, bounds=(-1, 1)))
    assert (linf.norm, linf.epsilon, linf.bounds) == ("linf", 0.2, (-1.0, 1.0))
    assert (linf.steps, linf.step_size) == (20, 0.05)
    l2 = PGD.for_evaluation(PGD("l2", 128 / 255), steps=50)
    assert (l2.norm, l2.epsilon, l2.steps) == ("l2", 128 / 255, 50)
    assert l2.step_size == 16 / 255
    assert type(linf) is PGD and linf.random_start and not linf.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"step_size": -0.1},
            ValueError,
            r"`step_size` must be between 0 and 1.*step_size=-0\.1",
        ),
        ({"step_size": 2}, ValueError, "`step_size` must be between.*=2.*255"),
        ({"step_size": False}, TypeError, "`step_size` must be a real number"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0.*steps=-1"),
        ({"steps": 2.0}, TypeError, r"`steps` must be an integer.*steps=2\.0"),
        (
            {"steps": True},
            TypeError,
            "`steps` must be an integer.*of type bool",
        ),
        ({"steps": None}, TypeError, "`steps` must be an integer"),
        ({"norm": "L2"}, ValueError, "`norm` must be one of.*'L2'"),
        ({"epsilon": -1e-9}, ValueError, "`epsilon` must be between 0 and 1"),
        ({"random_start": "no"}, TypeError, "`random_start` must be True or"),
        ({"training": 1}, TypeError, "`training` must be True or False.*=1"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        PGD(**arguments)


@pytest.mark.parametrize("name", ["epsilon", "step_size"])
def test_refuses_a_length_that_the_images_do_not_have(
    classifier, images, labels, name
):
    attack = PGD("l2", **{"epsilon": 0.5, name: 128})
    with pytest.raises(
        ValueError, match=rf"`{name}` must be at most 6.*{name}=128\.0.*128/255"
    ):
        attack(classifier, images, labels)


@pytest.mark.parametrize(
    ("norm", "epsilon", "step_size"),
    # Section 7 of the source: eight and two grey levels, 128 and 16 in l2.
    [("linf", 8 / 255, 2 / 255), ("l2", 128 / 255, 16 / 255)],
)
def test_the_defaults_are_the_published_ones(norm, epsilon, step_size):
    attack = PGD(norm)
    assert attack.epsilon == pytest.approx(epsilon, rel=1e-12)
    assert attack.step_size == pytest.approx(step_size, rel=1e-12)
    assert attack.steps == 10
    evaluation = PGD.for_evaluation(attack)
    assert evaluation.step_size == pytest.approx(step_size, rel=1e-12)
    assert evaluation.steps == 20


@pytest.mark.parametrize("images", [1, 2, 7])
def test_puts_the_halves_of_a_batch_together(images):
    x = ops.reshape(ops.arange(images * 3, dtype="float32"), (images, 3))
    y = ops.arange(images, dtype="float32")
    sizes = []

    def add(x, y):
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
    classifier = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            Cut(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    x = np.full((2, 4, 4, 1), 0.5, "float32")
    with pytest.raises(ValueError, match="no gradient with respect to"):
        PGD(epsilon=0.1)(classifier, x, np.array([0, 1]))

"""Gradients that are NaN, infinite, tiny or huge, and what attacks make of it.

The networks are written in `keras.ops`, so that gradients come from the
backend itself.
"""

import keras
import numpy as np
import pytest
from attack_cases import norms
from keras import layers
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from small import network

import keras_wake as kw
from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.backend import numerics

NORMS = [("linf", 0.1), ("l2", 0.8)]


class Root(layers.Layer):
    """√x, whose gradient is infinite at 0."""

    def call(self, x):
        return ops.sqrt(x)


class Deviation(layers.Layer):
    """The deviation of each pixel's neighbourhood; NaN where that is flat."""

    def call(self, x):
        mean = ops.average_pool(x, 2, 1, "same")
        squares = ops.average_pool(ops.square(x), 2, 1, "same")
        return ops.sqrt(ops.relu(squares - ops.square(mean)))


@pytest.fixture(scope="module", params=[Root, Deviation])
def case(request):
    """A network on digits, whose corners are black, and 100 of its images."""
    keras.utils.set_random_seed(0)
    x, y = kw.datasets.load("digits").arrays("train", limit=600)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            request.param(),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    classifier.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.fit(x, y, epochs=12, verbose=0)
    return classifier, x[:100], y[:100]


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_pgd_finds_what_square_finds(case, norm, epsilon):
    classifier, x, y = case

    def accuracy_under(attack):
        found = classifier(attack(classifier, x, y, seed=0), training=False)
        return np.mean(np.argmax(to_numpy(found), axis=1) == y)

    pgd = accuracy_under(PGD(norm, epsilon, steps=20))
    square = accuracy_under(Square(norm, epsilon, queries=300))
    # Two of a hundred images for the draws of both.
    assert pgd <= square + 0.02
    assert pgd < 0.4


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_no_attack_returns_what_is_not_finite(case, norm, epsilon):
    classifier, x, y = case[0], case[1][:8], case[2][:8]
    settings = {"norm": norm, "epsilon": epsilon}
    for attack in (
        FGSM(**settings),
        PGD(steps=3, loss="kl", **settings),
        PGD(steps=2, training=True, **settings),
        APGD(steps=3, **settings),
        APGD(steps=3, loss="dlr_targeted", target_classes=1, **settings),
        APGD(steps=2, eot_samples=2, **settings),
        FAB(steps=3, target_classes=1, **settings),
    ):
        found = to_numpy(attack(classifier, x, y, seed=0))
        assert np.all(np.isfinite(found)), attack
        assert np.all(np.abs(found - x).max(axis=(1, 2, 3)) <= epsilon + 1e-6)
    # A black pixel has no gradient and stays; the others move.
    if isinstance(classifier.layers[0], Root):
        moved = to_numpy(FGSM(**settings)(classifier, x, y)) != x
        assert not moved[x == 0].any()
        assert moved[x > 0].mean() > 0.9


@pytest.mark.usefixtures("eagerly")
def test_an_attack_of_ones_own_is_made_finite():
    class Broken(Attack):
        def run(self, classifier, x, labels, seed):
            column = np.float32([np.nan, np.inf, -np.inf, 0.05])
            return ops.convert_to_tensor(np.broadcast_to(column, x.shape))

    x = np.full((2, 4), 0.5, "float32")
    for norm, epsilon in NORMS:
        found = to_numpy(Broken(norm, epsilon)(network(shape=(4,)), x, [0, 1]))
        expected = x + np.float32([0, 0, 0, 0.05])
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_element_that_is_not_finite_counts_as_0(norm):
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(3, 4, 4, 1)).astype("float32")
    gradient[0, 0, 0], gradient[0, 1, 1] = np.nan, np.inf
    gradient[1, 2] = -np.inf
    known = np.where(np.isfinite(gradient), gradient, 0)
    expected = np.sign(known)
    if norm == "l2":
        expected = known / norms(known, "l2")[:, None, None, None]
    found = kw.attacks.ThreatModel(norm).steepest(gradient)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-6)


def test_a_direction_depends_neither_on_the_size_nor_on_other_images():
    rng = np.random.default_rng(0)
    # One is 0, the others are of any size that float32 knows.
    sizes = np.float32([0, 1e-30, 1e-20, 1e-10, 1e-3, 1, 1e10, 1e25, 1e35])
    directions = rng.normal(size=(1, 5, 5, 2)).astype("float32")
    gradients = directions * sizes[:, None, None, None]
    unit = directions / np.sqrt(np.sum(directions**2))
    steepest = kw.attacks.ThreatModel("l2").steepest
    for part in slice(None), slice(4, 6):
        found = to_numpy(steepest(gradients[part]))
        expected = np.where(gradients[part] == 0, 0, unit)
        np.testing.assert_allclose(found, expected, rtol=2e-6)
    gradients = rng.normal(size=(3, 5, 5, 2)).astype("float32")
    gradients[0] *= 1e-20
    # To the last bit: rounding grows from step to step.
    np.testing.assert_array_equal(
        to_numpy(steepest(gradients))[1:], to_numpy(steepest(gradients[1:]))
    )


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow compiles for images of unknown size",
)
@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_images_whose_size_is_unknown_are_attacked(norm, epsilon):
    import tensorflow as tf

    classifier = keras.Sequential(
        [Root(), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    classifier.build((None, None, None, 1))
    attack = PGD(norm, epsilon, steps=2)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 1))])
    def attacked(x):
        return attack.perturb(classifier, x, tf.one_hot([0, 1], 2), seed=0)

    x = np.zeros((2, 4, 4, 1), "float32")
    assert np.abs(to_numpy(attacked(x)) - x).max() > 0.01


def test_a_whole_gradient_has_a_direction_for_weight_perturbation():
    kernel = np.float32([[3e-25, 4e-25], [np.nan, 0]])
    found = numerics.unit_l2(
        numerics.finite(ops.convert_to_tensor(kernel)), (0, 1)
    )
    np.testing.assert_allclose(to_numpy(found), [[0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_tiny_logits_are_attacked_like_others(norm, epsilon):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(6, 5, 5, 1)).astype("float32")
    y = np.arange(6) % 4
    found = []
    for factor in (1e-6, 1e-12, 1e-20):
        keras.utils.set_random_seed(0)
        classifier = keras.Sequential(
            [
                keras.Input((5, 5, 1)),
                layers.Conv2D(3, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(4),
                layers.Rescaling(factor),
            ]
        )
        found.append(to_numpy(PGD(norm, epsilon)(classifier, x, y, seed=0)))
    assert np.abs(found[0] - x).max() > 0.05
    # Softmax of 1e-6 differs from that of 0 in the sixth digit.
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-4)

"""What the attacks of an evaluation share: stages, seeds and guarantees."""

import keras
import numpy as np
import pytest
from attack_cases import quick_attacks
from attack_cases import tiny_network
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from small import data
from small import network

from keras_wake import backend
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.attacks import StagedAttack
from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.seeds import SampleSeed

ATTACKS = [*quick_attacks("linf", 0.1)[2:], *quick_attacks("l2", 0.6)[2:]]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_depends_neither_on_the_batch_nor_on_the_order(
    classifier, images, labels, attack
):
    if isinstance(attack, FAB):
        # It changes nothing where it does not succeed: close boundaries, and
        # images on the right side of them.
        attack = FAB(attack.norm, 5 * attack.epsilon, steps=5)
        bias = classifier.get_layer("head").bias
        bias.assign(bias - np.mean(to_numpy(classifier(images)), axis=0))
        labels = to_numpy(classifier(images)).argmax(axis=1)
    one_hot = np.eye(3, dtype="float32")[labels]
    ids = np.arange(10) + 100

    def run(part):
        # Not compiled, which would take longer than to run.
        seed = SampleSeed(3, ids[part])
        return to_numpy(
            attack.perturb(classifier, images[part], one_hot[part], seed)
        )

    together = run(np.arange(10))
    order = np.random.default_rng(0).permutation(10)
    # A convolution may add in another order for another size.
    for part in (order[:7], [7]):
        np.testing.assert_allclose(run(part), together[part], atol=1e-5)
    assert np.abs(together - images).max() > 0.03


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.1, steps=3),
        PGD(epsilon=0.1, steps=3, training=True),
        *(ATTACKS[number] for number in (0, 2, 3, 4)),
    ],
    ids=str,
)
def test_leaves_the_state_of_the_classifier(classifier, images, labels, attack):
    classifier.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.train_on_batch(images, labels)
    variables = classifier.variables + classifier.optimizer.variables
    paths = " ".join(variable.path for variable in variables)
    for part in ("moving_mean", "moving_var", "seed_generator", "momentum"):
        assert part in paths
    before = [np.copy(to_numpy(variable)) for variable in variables]
    first = to_numpy(attack(classifier, images, labels, seed=0))
    again = to_numpy(attack(classifier, images, labels, seed=0))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(
            to_numpy(variable), value, err_msg=variable.path
        )
    assert not classifier.losses
    # Nor is there any other state: with dropout, too, it repeats itself.
    np.testing.assert_array_equal(first, again)
    assert isinstance(attack, FAB) or np.max(np.abs(first - images)) > 0.09


@pytest.fixture
def double_precision():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("number", [2, 5, 6])
def test_runs_where_keras_prefers_float64(double_precision, number):
    x, y = data(4)
    attack = quick_attacks("linf", 0.2)[number]
    x_adv = to_numpy(attack(network(), x, y, seed=0))
    assert x_adv.dtype == np.float32
    assert np.abs(x_adv - x).max() <= 0.2 + 1e-6


class Listed(StagedAttack):
    """In stage s it moves image i by its own amount, known beforehand."""

    def stages_for(self, num_classes):
        return 3

    def run_stage(self, classifier, x, labels, seed, stage):
        amounts = np.float32(
            [[0.0, 0.3, 0.0], [0.2, 0.4, 0.1], [0.9, 0.9, 0.2]]
        )
        amounts = ops.take(ops.convert_to_tensor(amounts), stage, axis=0)
        return ops.take(amounts, seed.ids)[:, None] + ops.zeros_like(x)


def _threshold(x, training=False):
    """Class 1 from 0.65 on, else class 0."""
    return ops.concatenate([ops.zeros_like(x), 20 * (x - 0.65)], axis=1)


def test_keeps_the_first_success_else_the_last_stage():
    attack = Listed(epsilon=1.0)
    x = np.full((3, 1), 0.5, "float32")
    labels = np.eye(2, dtype="float32")[[0, 0, 0]]
    seed = SampleSeed(0, [0, 1, 2])
    found = to_numpy(attack.perturb(_threshold, x, labels, seed))
    np.testing.assert_allclose(found, [[0.7], [0.8], [0.7]], atol=1e-6)
    # The stages run for those that stand; here, no image does.
    none = to_numpy(attack.perturb(_threshold, x, 1 - labels, seed))
    np.testing.assert_array_equal(none, x)
    # A single stage.
    seed = SampleSeed(0, [2, 0])
    for stage, expected in enumerate(([0.5, 0.5], [0.6, 0.7], [0.7, 1.0])):
        found = to_numpy(
            attack.perturb_stage(_threshold, x[:2], labels[:2], seed, stage)
        )
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)


def test_all_stages_share_one_compilation(classifier, images, labels):
    attack = Square(epsilon=0.1, queries=3, restarts=2)
    traced = []

    def run(x, one_hot, seed, ids, stage):
        traced.append(1)
        seed = SampleSeed(seed, ids)
        return attack.perturb_stage(classifier, x, one_hot, seed, stage)

    step = backend.compile(run, lambda: classifier)
    y = np.argmax(to_numpy(classifier(images)), axis=1)
    batch = (
        ops.convert_to_tensor(images),
        ops.one_hot(y, 3),
        ops.convert_to_tensor(5, "int32"),
        ops.arange(10, dtype="int32"),
    )
    first, second = (
        to_numpy(step(*batch, ops.convert_to_tensor(stage, "int32")))
        for stage in range(2)
    )
    if keras.backend.backend() != "torch":  # It compiles nothing.
        assert len(traced) == 1
    assert np.abs(first - second).max() > 0.05


def test_takes_any_seed_of_a_step(images, labels):
    # As a training step has it, in which no images have numbers.
    tiny = tiny_network(36, 3, 0)
    one_hot = np.eye(3, dtype="float32")[labels]
    attack = Square(epsilon=0.1, queries=3)
    found = [
        to_numpy(attack.perturb(tiny, images, one_hot, CounterSeed(n)))
        for n in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    delta = to_numpy(attack.run(tiny, images, one_hot, CounterSeed(1)))
    np.testing.assert_allclose(images + delta, found[0], atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(3), ValueError, r"one for each image.*10 images and ids="),
        (np.arange(10) - 1, ValueError, "integers of at least 0"),
        (np.arange(10.0), TypeError, r"`ids` must be integers.*ids=array"),
    ],
)
def test_refuses_bad_numbers(classifier, images, labels, ids, error, message):
    with pytest.raises(error, match=message):
        APGD(steps=1)(classifier, images, labels, seed=0, ids=ids)

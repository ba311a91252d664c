"""What the attacks of an evaluation share: stages, seeds and guarantees."""

import copy
import pickle

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
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import Square
from keras_wake.attacks import StagedAttack
from keras_wake.utils.seeds import CounterSeed
from keras_wake.utils.seeds import SampleSeed

EPSILON = {"linf": 0.1, "l2": 0.6}


def _quick_attacks(norm, epsilon, **settings):
    return [
        APGD(norm, epsilon, steps=6, **settings),
        APGD(norm, epsilon, steps=6, loss="dlr", **settings),
        APGD(norm, epsilon, steps=6, loss="dlr_targeted", **settings),
        FAB(norm, epsilon, steps=5, **settings),
        Square(norm, epsilon, queries=15, **settings),
    ]


ATTACKS = [
    attack
    for norm, epsilon in EPSILON.items()
    for attack in _quick_attacks(norm, epsilon)
]
IDS = [
    f"{type(attack).__name__}-{getattr(attack, 'loss', '')}-{attack.norm}"
    for attack in ATTACKS
]


def _sizes(delta, norm):
    flat = delta.reshape(len(delta), -1)
    return np.linalg.norm(flat, 2 if norm == "l2" else np.inf, axis=1)


def _tiny_network(features, classes, seed):
    """A function of images of any shape, with gradients of any size."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(features, 4)).astype("float32") * 3
    second = rng.normal(size=(4, classes)).astype("float32") * 3

    def network(x, training=False):
        x = ops.reshape(x, (-1, features))
        return ops.matmul(ops.tanh(ops.matmul(x, first)), second)

    return network


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    kind=st.integers(0, 4),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)),
    classes=st.integers(2, 6),
    batch=st.integers(1, 4),
    low=st.floats(-1, 0.5),
    width=st.floats(1e-2, 1.5),
    epsilon=st.floats(0, 1),
    stage=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
@example("l2", 4, (7, 7, 3), 3, 4, 0.0, 1.0, 1.0, 0, 0)
@example("l2", 3, (7, 7, 3), 3, 4, 0.0, 1.0, 0.3, 1, 0)
@example("linf", 3, (2, 2, 1), 2, 1, 0.0, 1.0, 1e-8, 0, 0)
@example("linf", 2, (1, 1, 1), 2, 1, 0.0, 1.0, 0.5, 0, 0)
@example("l2", 0, (3, 1, 1), 6, 3, 0.0, 1.0, 0.0, 0, 0)
def test_stays_inside_ball_and_bounds(
    norm, kind, shape, classes, batch, low, width, epsilon, stage, seed
):
    high = low + width
    # As a share of the largest distance that two images can have.
    epsilon *= width * (np.sqrt(np.prod(shape)) if norm == "l2" else 1)
    attack = _quick_attacks(norm, epsilon, bounds=(low, high))[kind]
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, size=(batch, *shape))
    x[rng.random(x.shape) < 0.2] = low
    x[rng.random(x.shape) < 0.2] = high
    x = x.astype("float32")
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, batch)]
    network = _tiny_network(int(np.prod(shape)), classes, seed)

    x_adv = to_numpy(
        attack.perturb_stage(
            network,
            x,
            labels,
            SampleSeed(seed, np.arange(batch)),
            stage % attack.stages_for(classes),
        )
    )

    assert x_adv.shape == x.shape and x_adv.dtype == "float32"
    assert np.isfinite(x_adv).all()
    assert x_adv.min() >= np.float32(low) - 1e-6
    assert x_adv.max() <= np.float32(high) + 1e-6
    sizes = _sizes(x_adv.astype("float64") - x, norm)
    # Relative above 1, where float32 itself is no finer.
    assert sizes.max() <= attack.epsilon + 1e-6 * max(1, attack.epsilon)


@pytest.mark.parametrize("attack", ATTACKS, ids=IDS)
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
    for part in (order, [0, 1, 2], [7]):
        np.testing.assert_allclose(run(part), together[part], atol=1e-5)
    assert np.abs(together - images).max() > 0.03


@pytest.mark.parametrize("attack", ATTACKS[:5:2] + ATTACKS[3:5], ids=str)
def test_leaves_the_state_of_the_classifier(classifier, images, labels, attack):
    paths = " ".join(variable.path for variable in classifier.variables)
    for part in ("moving_mean", "moving_var", "seed_generator"):
        assert part in paths
    before = [np.copy(to_numpy(v)) for v in classifier.variables]
    first = to_numpy(attack(classifier, images, labels, seed=0))
    again = to_numpy(attack(classifier, images, labels, seed=0))
    for variable, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(
            to_numpy(variable), value, err_msg=variable.path
        )
    assert not classifier.losses
    np.testing.assert_array_equal(first, again)


@pytest.fixture
def double_precision():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.parametrize("number", [0, 3, 4])
def test_runs_where_keras_prefers_float64(double_precision, number):
    network = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).random((4, 4, 4, 1), np.float32)
    attack = _quick_attacks("linf", 0.2)[number]
    x_adv = to_numpy(attack(network, x, [0, 1, 2, 0], seed=0))
    assert x_adv.dtype == np.float32
    assert _sizes(x_adv - x, "linf").max() <= 0.2 + 1e-6


@pytest.mark.parametrize("attack", ATTACKS, ids=IDS)
def test_copies_have_the_same_settings(attack):
    copies = (
        type(attack).from_config(attack.get_config()),
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(attack)
        ),
        copy.deepcopy(attack),
        pickle.loads(pickle.dumps(attack)),
        eval(repr(attack)),
    )
    names = set(attack.get_config())
    for found in copies:
        assert type(found) is type(attack)
        assert found.get_config() == attack.get_config()
        for name in names:
            assert getattr(found, name) == getattr(attack, name)


def test_every_setting_is_in_the_config():
    for attack in (
        APGD("l2", 0.5, 7, "dlr_targeted", 2, 3, (-1.0, 1.0), 0.5, 2),
        FAB("l2", 0.5, 7, 2, 3, 0.2, 1.1, 0.8, (-1.0, 1.0)),
        Square("l2", 0.5, 70, 0.5, 2, (-1.0, 1.0), True),
    ):
        config = attack.get_config()
        usual = type(attack)().get_config()
        assert set(config) == set(usual)
        for name in config:
            assert config[name] != usual[name], name
        assert type(attack)(**config).get_config() == config


class Listed(StagedAttack):
    """In stage s it moves image i by its own amount, known beforehand."""

    def stages_for(self, num_classes):
        return 3

    def passes(self, num_classes):
        return 0, 0

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
    x = np.float32([[0.5], [0.5], [0.5]])
    labels = np.eye(2, dtype="float32")[[0, 0, 0]]
    found = to_numpy(
        Listed(epsilon=1.0).perturb(
            _threshold, x, labels, SampleSeed(0, [0, 1, 2])
        )
    )
    np.testing.assert_allclose(found, [[0.7], [0.8], [0.7]], atol=1e-6)
    # The stages run for those that stand; here, no image does.
    none = to_numpy(
        Listed(epsilon=1.0).perturb(
            _threshold, x, 1 - labels, SampleSeed(0, [0, 1, 2])
        )
    )
    np.testing.assert_array_equal(none, x)


def test_runs_a_single_stage():
    x = np.float32([[0.5], [0.5]])
    labels = np.eye(2, dtype="float32")[[0, 0]]
    seed = SampleSeed(0, [2, 0])
    attack = Listed(epsilon=1.0)
    for stage, expected in enumerate(([0.5, 0.5], [0.6, 0.7], [0.7, 1.0])):
        found = to_numpy(
            attack.perturb_stage(_threshold, x, labels, seed, stage)
        )
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)


def test_all_stages_share_one_compilation(classifier, images, labels):
    attack = Square(epsilon=0.1, queries=3, restarts=2)
    traced = []

    def run(x, one_hot, seed, ids, stage):
        traced.append(1)
        return attack.perturb_stage(
            classifier, x, one_hot, SampleSeed(seed, ids), stage
        )

    step = backend.compile(run, lambda: classifier)
    y = np.argmax(to_numpy(classifier(images)), axis=1)
    one_hot = ops.one_hot(y, 3)
    found = [
        to_numpy(
            step(
                ops.convert_to_tensor(images),
                one_hot,
                ops.convert_to_tensor(5, "int32"),
                ops.arange(10, dtype="int32"),
                ops.convert_to_tensor(stage, "int32"),
            )
        )
        for stage in range(2)
    ]
    if keras.backend.backend() != "torch":  # It compiles nothing.
        assert len(traced) == 1
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_takes_any_seed_of_a_step(images, labels):
    # As a training step has it, in which no images have numbers.
    network = _tiny_network(36, 3, 0)
    one_hot = np.eye(3, dtype="float32")[labels]
    attack = Square(epsilon=0.1, queries=3)
    found = [
        to_numpy(attack.perturb(network, images, one_hot, CounterSeed(n)))
        for n in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    delta = to_numpy(attack.run(network, images, one_hot, CounterSeed(1)))
    np.testing.assert_allclose(images + delta, found[0], atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(3), ValueError, r"one for each image.*10 images and ids="),
        (np.arange(10) - 1, ValueError, "integers of at least 0"),
        (np.arange(10.0), TypeError, "`ids` must be integers.*float64"),
    ],
)
def test_refuses_bad_numbers(classifier, images, labels, ids, error, message):
    with pytest.raises(error, match=message):
        APGD(steps=1)(classifier, images, labels, seed=0, ids=ids)


def test_a_subclass_must_define_its_parts(images):
    attack = StagedAttack()
    for call, name in (
        (lambda: attack.stages_for(3), "stages_for"),
        (lambda: attack.passes(3), "passes"),
        (lambda: attack.run_stage(None, images, None, None, 0), "run_stage"),
    ):
        with pytest.raises(TypeError, match=rf"must define `{name}\("):
            call()

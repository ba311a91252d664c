"""What every attack shares: input, labels, copies, cache, final guarantee."""

import copy
import gc
import inspect
import logging
import pickle
import weakref

import keras
import numpy as np
import pytest
from attack_cases import norms
from attack_cases import quick_attacks
from attack_cases import tiny_network
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from small import data
from small import network
from small import wake

import keras_wake as kw
from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.attacks import StagedAttack
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.utils.seeds import SampleSeed


class Escape(Attack):
    """Leaves every ball and all bounds."""

    def run(self, classifier, x, labels, seed):
        return 100.0 * keras.random.normal(ops.shape(x), seed=seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_leaves_its_threat_model(classifier, images, labels, norm):
    escape = Escape(norm, epsilon=0.25, bounds=(0.0, 1.0))
    x_adv = np.asarray(escape(classifier, images, labels, seed=0))
    assert x_adv.min() == 0 and x_adv.max() == 1
    size = norms(x_adv.astype("float64") - images, norm)
    assert 0.2 < size.max() <= 0.25 + 1e-6


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    kind=st.integers(0, 6),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)),
    classes=st.integers(2, 6),
    batch=st.integers(1, 4),
    low=st.floats(-1, 0.5),
    width=st.floats(1e-2, 1.5),
    epsilon=st.floats(0, 1),
    stage=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
@example("l2", 0, (5, 5, 5), 3, 4, -1.0, 2.0, 1.0, 0, 0)
@example("linf", 1, (5, 5, 5), 3, 4, -1.0, 2.0, 0.1, 0, 0)
@example("l2", 1, (3, 1, 1), 3, 2, 0.0, 1.0, 1e-8, 0, 0)
@example("l2", 6, (7, 7, 3), 3, 4, 0.0, 1.0, 1.0, 0, 0)
@example("l2", 5, (7, 7, 3), 3, 4, 0.0, 1.0, 0.3, 1, 0)
@example("linf", 5, (2, 2, 1), 2, 1, 0.0, 1.0, 1e-8, 0, 0)
@example("linf", 4, (1, 1, 1), 2, 1, 0.0, 1.0, 0.5, 0, 0)
@example("l2", 2, (3, 1, 1), 6, 3, 0.0, 1.0, 0.0, 0, 0)
@example("linf", 0, (5, 5, 3), 3, 4, 0.0, 255.0, 8 / 255, 0, 0)
@example("l2", 0, (5, 5, 3), 3, 4, 0.0, 255.0, 0.05, 0, 0)
def test_stays_inside_ball_and_bounds(
    norm, kind, shape, classes, batch, low, width, epsilon, stage, seed
):
    high = low + width
    # As a share of the largest distance that two images can have.
    epsilon *= width * (np.sqrt(np.prod(shape)) if norm == "l2" else 1)
    attack = quick_attacks(norm, epsilon, bounds=(low, high))[kind]
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, size=(batch, *shape))
    x[rng.random(x.shape) < 0.2] = low
    x[rng.random(x.shape) < 0.2] = high
    x = x.astype("float32")
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, batch)]
    classifier = tiny_network(int(np.prod(shape)), classes, seed)
    ids = SampleSeed(seed, np.arange(batch))
    stage %= attack.stages_for(classes)

    x_adv = to_numpy(attack.perturb_stage(classifier, x, labels, ids, stage))

    assert x_adv.shape == x.shape and x_adv.dtype == "float32"
    assert np.isfinite(x_adv).all()
    assert x_adv.min() >= np.float32(low) - 1e-6
    assert x_adv.max() <= np.float32(high) + 1e-6
    size = norms(x_adv.astype("float64") - x, norm)
    # Relative above 1, where float32 itself is no finer.
    assert size.max() <= attack.epsilon + 1e-6 * max(1, epsilon, high)


def test_an_attack_must_define_its_run_or_its_stage(classifier, images, labels):
    message = r"`Attack` must define `run\(classifier, x, labels, se"
    with pytest.raises(TypeError, match=message):
        Attack()(classifier, images, labels)
    with pytest.raises(TypeError, match=r"must define `run_stage\("):
        StagedAttack().run_stage(None, images, None, None, 0)


def test_all_forms_of_labels_agree(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=2, random_start=False)
    expected = attack(classifier, images, labels)
    one_hot = np.eye(3)[labels]
    for form in (
        labels.tolist(),
        labels.astype("int64"),
        labels.astype("uint8"),
        labels[:, None],
        one_hot,
        one_hot.astype("float16"),
        one_hot.astype("int32"),
        # 1e-4 to another class: soft, and the sign of no gradient turns.
        one_hot * (1 - 1e-4) + 1e-4 / 3,
    ):
        found = attack(classifier, images, form)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_takes_images_of_any_float_in_lists_and_in_any_number(
    classifier, images, labels
):
    attack = PGD(epsilon=0.1, steps=2, random_start=False)
    # What float16 can hold, all three can.
    images = images.astype("float16")
    expected = to_numpy(attack(classifier, images.astype("float32"), labels))
    for dtype in "float16", "float64":
        found = attack(classifier, images.astype(dtype), labels)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        np.testing.assert_array_equal(found, expected)
    for size in (10, 3, 1, 7):
        x_adv = attack(classifier, images[:size].tolist(), labels[:size])
        assert tuple(x_adv.shape) == (size, 6, 6, 1)


def test_one_attack_serves_images_of_two_sizes():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    for attack in FGSM(epsilon=0.1), Square(epsilon=0.1, queries=3):
        for count, side in ((5, 4), (4, 6)):
            x = np.full((count, side, side, 1), 0.5, "float32")
            x_adv = ops.convert_to_numpy(attack(model, x, [0] * count, seed=0))
            assert x_adv.shape == x.shape


def test_rounding_at_the_bounds_is_no_error(classifier, images, labels):
    images[0, 0, 0], images[1, 0, 0] = -3e-8, 1 + 5e-7
    for norm in ("linf", "l2"):
        attack = PGD(norm, epsilon=0.1, steps=1)
        x_adv = np.asarray(attack(classifier, images, labels, seed=0))
        assert x_adv.min() >= 0 and x_adv.max() <= 1


def dense_classifier():
    return network(lambda: [keras.layers.Dense(8, "relu")], shape=(6, 6, 1))


def test_runs_on_the_weights_and_layers_of_now_as_its_copies_do(images, labels):
    classifier = dense_classifier()
    attack = PGD("l2", epsilon=0.5, steps=2)
    before = np.asarray(attack(classifier, images, labels, seed=2))
    kernel, bias = classifier.layers[-1].get_weights()
    classifier.layers[-1].set_weights([kernel[:, ::-1], bias])
    for tanh in (False, True):
        if tanh:
            classifier.layers[1].activation = keras.activations.tanh
        after = np.asarray(attack(classifier, images, labels, seed=2))
        assert np.max(np.abs(after - before)) > 0.01
        for fresh in copy.deepcopy(attack), pickle.loads(pickle.dumps(attack)):
            again = fresh(classifier, images, labels, seed=2)
            np.testing.assert_array_equal(after, again)
        before = after


@pytest.mark.usefixtures("eagerly")
def test_does_not_keep_a_classifier_alive(images, labels):
    classifier = dense_classifier()
    attack = PGD(epsilon=0.1, steps=1)
    attack(classifier, images, labels)
    reference = weakref.ref(classifier)
    assert reference() is not None
    del classifier
    gc.collect()
    assert reference() is None


ATTACKS = [
    PGD("l2", 0.5, 0.1, 3, random_start=False, bounds=(-1.0, 1.0), loss=None),
    PGD(steps=2, training=True, loss="kl"),
    FGSM("l2", 0.5, bounds=(-1, 1)),
    FGSM.fast_at(0.1),
    APGD("l2", 0.5, 7, "dlr_targeted", 2, 3, (-1.0, 1.0), 0.5, 2),
    FAB("l2", 0.5, 7, 2, 3, 0.2, 1.1, 0.8, (-1.0, 1.0)),
    Square("l2", 0.5, 70, 0.5, 2, (-1.0, 1.0), True),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_copies_have_the_same_settings(attack):
    for found in (
        type(attack).from_config(attack.get_config()),
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(attack)
        ),
        copy.copy(attack),
        copy.deepcopy(attack),
        pickle.loads(pickle.dumps(attack)),
        eval(repr(attack)),
    ):
        assert found is not attack and type(found) is type(attack)
        assert found.get_config() == attack.get_config()
        for name in attack.get_config():
            assert getattr(found, name) == getattr(attack, name), name


@pytest.mark.parametrize("attack", ATTACKS[4:], ids=lambda a: type(a).__name__)
def test_every_setting_is_in_the_config(attack):
    config, usual = attack.get_config(), type(attack)().get_config()
    assert set(config) == {*inspect.signature(type(attack)).parameters}
    for name in config:
        assert config[name] != usual[name], name


def test_repr_is_what_makes_it_again():
    attack = FGSM("l2", epsilon=0.5, random_start=True)
    assert repr(attack) == (
        "FGSM(norm='l2', epsilon=0.5, bounds=[0.0, 1.0], step_size=0.5, "
        "random_start=True, training=False, loss=None)"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: ((x * 255).astype("uint8"), y),
            TypeError,
            r"floating-point numbers within the bounds.*dtype uint8.*/ 255",
        ),
        (
            lambda x, y: (x + np.eye(6, dtype="float32")[:1, :, None], y),
            ValueError,
            r"image\(s\) of the batch lie outside the bounds \[0, 1\]",
        ),
        (lambda x, y: (x * np.nan, y), ValueError, "10 image.*NaN or infinity"),
        (lambda x, y: (x[:7], y), ValueError, "7 images and 10 labels"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "no images: the size of the"),
        (
            lambda x, y: (x[..., 0], y),
            ValueError,
            r"shape \(batch, 6, 6, 1\).*Received: shape \(10, 6, 6\)",
        ),
        (lambda x, y: (None, y), TypeError, "Images must be.*NoneType"),
        (
            lambda x, y: (x, y - 1),
            ValueError,
            r"4 label\(s\) of the batch name no class.*between 0 and 2",
        ),
        (
            lambda x, y: (x, y.astype("float32")),
            TypeError,
            "must be integers.*float32",
        ),
        (lambda x, y: (x, np.eye(4)[y]), ValueError, r"\(batch, 3\).*\(10, 4"),
        (lambda x, y: (x, np.eye(3)[y] * 2), ValueError, "10 label.*sum to 1"),
        (lambda x, y: (x, None), ValueError, "Labels are missing"),
    ],
)
def test_refuses_bad_batches(
    classifier, images, labels, change, error, message
):
    with pytest.raises(error, match=message):
        PGD(steps=1)(classifier, *change(images, labels))


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (
            PGD,
            {"step_size": -0.1},
            ValueError,
            r"`step_size` must be between 0 and 1.*step_size=-0\.1",
        ),
        (PGD, {"step_size": 2}, ValueError, "must be between.*=2.*255"),
        (PGD, {"steps": -1}, ValueError, "`steps` must be at least 0.*=-1"),
        (PGD, {"steps": 2.0}, TypeError, r"`steps` must be an integer.*=2\.0"),
        (PGD, {"norm": "L2"}, ValueError, "`norm` must be one of.*'L2'"),
        (PGD, {"epsilon": -1e-9}, ValueError, "`epsilon` must be between 0 "),
        (PGD, {"random_start": "no"}, TypeError, "`random_start` must be Tru"),
        (PGD, {"training": 1}, TypeError, "`training` must be True or False"),
        (FGSM, {"epsilon": 8}, ValueError, "`epsilon` must be between 0 and 1"),
        (FGSM, {"step_size": -1}, ValueError, "`step_size` must be between"),
        (FGSM, {"steps": 2}, TypeError, "unexpected keyword argument 'steps'"),
        (APGD, {"steps": 0}, ValueError, "`steps` must be at least 1.*steps=0"),
        (APGD, {"loss": "ce"}, ValueError, "`loss` must be one of 'cross_ent"),
        (APGD, {"restarts": 0}, ValueError, "`restarts` must be at least 1"),
        (APGD, {"target_classes": 0}, ValueError, "`target_classes` must be"),
        (APGD, {"rho": 1.1}, ValueError, r"`rho` must be between 0 and .*1\.1"),
        (APGD, {"eot_samples": 0}, ValueError, "`eot_samples` must be at lea"),
        (FAB, {"steps": 0}, ValueError, "`steps` must be at least 1.*steps=0"),
        (FAB, {"restarts": 0}, ValueError, "`restarts` must be at least 1"),
        (FAB, {"target_classes": 0}, ValueError, "`target_classes` must be at"),
        (FAB, {"alpha_max": 2}, ValueError, "`alpha_max` must be between 0 an"),
        (FAB, {"eta": 0}, ValueError, "`eta` must be greater than 0"),
        (FAB, {"beta": -1}, ValueError, "`beta` must be between 0 and 1"),
        (Square, {"queries": 0}, ValueError, "`queries` must be at least 1"),
        (Square, {"p_init": 1.5}, ValueError, "`p_init` must be between 0 and"),
        (Square, {"restarts": 0}, ValueError, "`restarts` must be at least 1"),
    ],
)
def test_refuses_bad_arguments(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)


def test_refuses_what_is_no_classifier(classifier, images, labels):
    with pytest.raises(TypeError, match=r"must be a `keras\.Model`.*function"):
        PGD(steps=1)(lambda x: x, images, labels)
    softmax = keras.Sequential([classifier, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="returns probabilities, not logits"):
        PGD(steps=1)(softmax, images, labels)


def test_the_settings_are_fixed():
    attack = PGD(epsilon=0.1, steps=3)
    with pytest.raises(AttributeError, match=r"fixed.*PGD\(\.\.\., steps=20"):
        attack.steps = 20
    for name in "epsilon", "norm", "bounds":
        with pytest.raises(AttributeError, match="settings of a `PGD`"):
            setattr(attack, name, 0.3)
    with pytest.raises(AttributeError, match=r"`ThreatModel\(\.\.\., epsilon="):
        attack.threat_model.epsilon = 0.3
    assert (attack.steps, attack.epsilon) == (3, 0.1)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (1.5, TypeError, r"`seed` must be an integer.*seed=1\.5"),
        (True, TypeError, "`seed` must be an integer.*True"),
        (-1, ValueError, "`seed` must be at least 0.*seed=-1"),
        # It would be another one in 32 bits.
        (2**32, ValueError, "`seed` must be below 2"),
    ],
)
def test_refuses_a_bad_seed(seed, error, message):
    classifier, pair = network(shape=(4,)), data(2, shape=(4,))
    start = FGSM(random_start=True)
    for call in (
        lambda: start(classifier, *pair, seed=seed),
        lambda: Square()(classifier, *pair, seed=seed),
        lambda: kw.WakeModel(classifier, FGSM(), seed=seed),
        lambda: kw.evaluation.robust_accuracy(
            classifier, pair, FGSM(), seed=seed
        ),
        lambda: kw.callbacks.AutoAttackEvaluation(pair, seed=seed),
        lambda: kw.attribution.correlation_matrix(
            classifier, pair, FGSM(), seed=seed
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_no_two_seeds_are_the_same():
    classifier, (x, y) = network(shape=(9,)), data(2, shape=(9,))
    attack = PGD(epsilon=0.1, step_size=0.001, steps=1)
    compiled = CompiledClassifier(classifier, 2)
    labels, ids = np.eye(3, dtype="float32")[y], np.int32([1, 2])
    called, evaluated = [], []
    for seed in (0, 2**31, 2**32 - 1):
        called.append(to_numpy(attack(classifier, x, y, seed=seed)))
        evaluated.append(compiled.attack(attack, x, labels, ids, seed))
    for found in (called, evaluated):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(found[one] - found[other]).max() > 0.01
    # The largest one goes through a step of training and one of evaluation.
    model = wake(classifier, attack, seed=2**32 - 1)
    model.fit(x, y, validation_data=(x, y), verbose=0)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow traces."
)
def test_several_attacks_do_not_count_as_retracing(caplog):
    classifier, (x, y) = network(shape=(4,)), data(2, shape=(4,))
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        for _ in range(6):
            FGSM(epsilon=0.1)(classifier, x, y)
    finally:
        logger.removeHandler(caplog.handler)
    assert "retracing" not in caplog.text

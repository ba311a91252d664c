"""What every attack shares: input, labels, copies, cache, final guarantee."""

import copy
import gc
import logging
import pickle
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

import keras_wake as kw
from keras_wake.attacks import Attack
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.evaluation.compiled_classifier import CompiledClassifier


class Escape(Attack):
    """Leaves every ball and all bounds."""

    def run(self, classifier, x, labels, seed):
        return 100.0 * keras.random.normal(ops.shape(x), seed=seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_leaves_its_threat_model(classifier, images, labels, norm):
    escape = Escape(norm, epsilon=0.25, bounds=(0.0, 1.0))
    x_adv = np.asarray(escape(classifier, images, labels, seed=0))
    assert x_adv.min() == 0 and x_adv.max() == 1
    delta = (x_adv.astype("float64") - images).reshape(len(images), -1)
    size = np.linalg.norm(delta, 2 if norm == "l2" else np.inf, axis=1)
    assert size.max() <= 0.25 + 1e-6
    assert size.max() > 0.2


def test_an_attack_must_define_run(classifier, images, labels):
    with pytest.raises(
        TypeError, match=r"`Attack` must define `run\(classifier, x, labels, se"
    ):
        Attack()(classifier, images, labels)


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


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_takes_images_of_any_float(classifier, images, labels, dtype):
    attack = PGD(epsilon=0.1, steps=2, random_start=False)
    # What float16 can hold, all three can.
    images = images.astype("float16")
    expected = attack(classifier, images.astype("float32"), labels)
    found = attack(classifier, images.astype(dtype), labels)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(found, expected)


def test_takes_lists_and_batches_of_any_size(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=1)
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
        for count, side in ((5, 4), (4, 6), (3, 4)):
            x = np.full((count, side, side, 1), 0.5, "float32")
            x_adv = ops.convert_to_numpy(attack(model, x, [0] * count, seed=0))
            assert x_adv.shape == x.shape


def test_rounding_at_the_bounds_is_no_error(classifier, images, labels):
    images[0, 0, 0], images[1, 0, 0] = -3e-8, 1 + 5e-7
    for norm in ("linf", "l2"):
        attack = PGD(norm, epsilon=0.1, steps=1)
        x_adv = np.asarray(attack(classifier, images, labels, seed=0))
        assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_runs_on_the_weights_of_now(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=2, random_start=False)
    before = np.asarray(attack(classifier, images, labels))
    kernel, bias = classifier.get_layer("head").get_weights()
    classifier.get_layer("head").set_weights([kernel[:, ::-1], bias])
    after = np.asarray(attack(classifier, images, labels))
    fresh = copy.deepcopy(attack)(classifier, images, labels)
    assert np.max(np.abs(after - before)) > 0.1
    np.testing.assert_array_equal(after, fresh)


def test_runs_on_the_layers_of_now(images, labels):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    attack = PGD("l2", epsilon=0.5, steps=2, random_start=False)
    before = np.asarray(attack(classifier, images, labels))
    classifier.layers[1].activation = keras.activations.tanh
    after = np.asarray(attack(classifier, images, labels))
    fresh = copy.deepcopy(attack)(classifier, images, labels)
    assert np.max(np.abs(after - before)) > 0.01
    np.testing.assert_array_equal(after, fresh)


def test_does_not_keep_a_classifier_alive(images, labels):
    classifier = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    attack = PGD(epsilon=0.1, steps=1)
    attack(classifier, images, labels)
    reference = weakref.ref(classifier)
    assert reference() is not None
    del classifier
    gc.collect()
    assert reference() is None


ATTACKS = [
    PGD("l2", 0.5, 0.1, 3, random_start=False, bounds=(-1.0, 1.0)),
    PGD(steps=2, training=True),
    FGSM("l2", 0.5, bounds=(-1, 1)),
    FGSM.fast_at(0.1),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize(
    "copied",
    [
        lambda attack: type(attack).from_config(attack.get_config()),
        lambda attack: keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(attack)
        ),
        copy.copy,
        copy.deepcopy,
        lambda attack: pickle.loads(pickle.dumps(attack)),
    ],
    ids=["config", "keras", "copy", "deepcopy", "pickle"],
)
def test_copies_have_the_same_settings(attack, copied):
    found = copied(attack)
    assert found is not attack and type(found) is type(attack)
    assert found.get_config() == attack.get_config()
    for name in (
        "norm",
        "epsilon",
        "bounds",
        "step_size",
        "steps",
        "random_start",
        "training",
    ):
        assert getattr(found, name) == getattr(attack, name), name


def test_copies_of_a_used_attack_do_the_same(classifier, images, labels):
    attack = PGD(epsilon=0.1, steps=2)
    expected = attack(classifier, images, labels, seed=2)
    for found in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        np.testing.assert_array_equal(
            found(classifier, images, labels, seed=2), expected
        )


def test_repr_is_what_makes_it_again():
    attack = FGSM("l2", epsilon=0.5, random_start=True)
    assert repr(attack) == (
        "FGSM(norm='l2', epsilon=0.5, bounds=[0.0, 1.0], step_size=0.5, "
        "random_start=True, training=False, loss=None)"
    )
    assert eval(repr(attack)).get_config() == attack.get_config()


def _with(array, value):
    array = array.copy()
    array[(0,) * array.ndim] = value
    return array


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x: (x * 255).astype("uint8"),
            TypeError,
            r"floating-point numbers within the bounds.*dtype uint8.*/ 255",
        ),
        (
            lambda x: _with(x, 1.001),
            ValueError,
            r"1 image\(s\) of the batch lie outside the bounds \[0, 1\]",
        ),
        (lambda x: x * 255, ValueError, "10 image.*outside the bounds"),
        (lambda x: _with(x, -1e-4), ValueError, "1 image.*outside the bounds"),
        (lambda x: _with(x, np.nan), ValueError, "1 image.*NaN or infinity"),
        (lambda x: _with(x, np.inf), ValueError, "1 image.*NaN or infinity"),
        (lambda x: x[:0], ValueError, "same length"),
        (lambda x: x[:7], ValueError, "same length.*7 images and 10 labels"),
        (
            lambda x: x[..., 0],
            ValueError,
            r"shape \(batch, 6, 6, 1\).*Received: shape \(10, 6, 6\)",
        ),
        (lambda x: x[:, 0, 0, 0], ValueError, r"Received: shape \(10,\)"),
        (lambda x: None, TypeError, "Images must be.*NoneType"),
    ],
)
def test_refuses_bad_images(classifier, images, labels, change, error, message):
    with pytest.raises(error, match=message):
        PGD(steps=1)(classifier, change(images), labels)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda y: _with(y, 3),
            ValueError,
            r"1 label\(s\) of the batch name no class.*between 0 and 2",
        ),
        (lambda y: y - 1, ValueError, r"4 label\(s\).*name no class"),
        (lambda y: y.astype("float32"), TypeError, "must be integers.*float32"),
        (lambda y: np.eye(4)[y], ValueError, r"\(batch, 3\).*\(10, 4\)"),
        (lambda y: y[:, None, None], ValueError, r"shape \(10, 1, 1\)"),
        (lambda y: np.eye(3)[y] * 2, ValueError, "10 label.*sum to 1"),
        (lambda y: y[0], ValueError, r"Received: shape \(\)"),
        (lambda y: y[:4], ValueError, "same length.*10 images and 4 labels"),
        (lambda y: None, ValueError, "Labels are missing"),
    ],
)
def test_refuses_bad_labels(classifier, images, labels, change, error, message):
    with pytest.raises(error, match=message):
        PGD(steps=1)(classifier, images, change(labels))


def test_refuses_an_empty_batch(classifier, images, labels):
    with pytest.raises(ValueError, match="no images: the size of the batch"):
        PGD(steps=1)(classifier, images[:0], labels[:0])


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (1.5, TypeError, r"`seed` must be an integer.*seed=1\.5"),
        (True, TypeError, "`seed` must be an integer.*True"),
        (-1, ValueError, "`seed` must be at least 0.*seed=-1"),
    ],
)
def test_refuses_a_bad_seed(classifier, images, labels, seed, error, message):
    with pytest.raises(error, match=message):
        PGD(steps=1)(classifier, images, labels, seed=seed)


def test_refuses_what_is_no_classifier(classifier, images, labels):
    with pytest.raises(TypeError, match=r"must be a `keras\.Model`.*function"):
        PGD(steps=1)(lambda x: x, images, labels)
    softmax = keras.Sequential([classifier, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="returns probabilities, not logits"):
        PGD(steps=1)(softmax, images, labels)


def test_the_settings_are_fixed():
    attack = PGD(steps=3)
    with pytest.raises(AttributeError, match=r"fixed.*PGD\(\.\.\., steps=20"):
        attack.steps = 20
    assert attack.steps == 3


def test_a_threat_model_is_fixed():
    attack = FGSM(epsilon=0.1)
    for name in "epsilon", "norm", "bounds":
        with pytest.raises(AttributeError, match="settings of an attack"):
            setattr(attack, name, 0.3)
    with pytest.raises(AttributeError, match="A threat model is fixed"):
        attack.threat_model.epsilon = 0.3
    assert attack.epsilon == 0.1


@pytest.mark.parametrize("seed", [2**32, 2**40])
def test_a_seed_that_would_be_another_is_refused(seed):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    data = np.full((2, 4), 0.5, "float32"), np.array([0, 1])
    for call in (
        lambda: FGSM(random_start=True)(network, *data, seed=seed),
        lambda: Square()(network, *data, seed=seed),
        lambda: kw.WakeModel(network, FGSM(), seed=seed),
        lambda: kw.evaluation.robust_accuracy(network, data, FGSM(), seed=seed),
        lambda: kw.callbacks.AutoAttackEvaluation(data, seed=seed),
        lambda: kw.attribution.correlation_matrix(
            network, data, FGSM(), seed=seed
        ),
    ):
        with pytest.raises(ValueError, match="`seed` must be below 2"):
            call()


def test_no_two_seeds_are_the_same():
    network = keras.Sequential([keras.Input((9,)), keras.layers.Dense(3)])
    x, y = np.full((2, 9), 0.5, "float32"), np.array([0, 1])
    attack = PGD(epsilon=0.1, step_size=0.001, steps=1)
    compiled = CompiledClassifier(network, 2)
    labels, ids = np.eye(3, dtype="float32")[y], np.int32([1, 2])
    called, evaluated = [], []
    for seed in (0, 2**31, 2**32 - 1):
        called.append(to_numpy(attack(network, x, y, seed=seed)))
        evaluated.append(compiled.attack(attack, x, labels, ids, seed))
    for found in (called, evaluated):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(found[one] - found[other]).max() > 0.01
    # The largest one goes through a step of training and one of evaluation.
    model = kw.WakeModel(network, attack, seed=2**32 - 1)
    model.compile("sgd")
    model.fit(x, y, validation_data=(x, y), verbose=0)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow traces."
)
def test_several_attacks_do_not_count_as_retracing(caplog):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x, y = np.full((2, 4), 0.5, "float32"), [0, 1]
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        for _ in range(6):
            FGSM(epsilon=0.1)(network, x, y)
    finally:
        logger.removeHandler(caplog.handler)
    assert "retracing" not in caplog.text

"""The engine: standing samples, packing, what counts as broken."""

import keras
import numpy as np
import pytest
from keras import ops
from linear_case import BestStep
from linear_case import data
from linear_case import linear_model
from linear_case import NoSteps
from linear_case import report_of
from linear_case import smallest_margins
from linear_case import with_function

from keras_wake import evaluation
from keras_wake.attacks import APGD
from keras_wake.attacks import Attack
from keras_wake.attacks import FAB
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.evaluation import ReliabilityWarning
from keras_wake.evaluation import robustness
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.compiled_classifier import inside
from keras_wake.evaluation.evaluate import evaluate

EPSILON = 0.06
BEST = BestStep(epsilon=EPSILON)


@pytest.mark.parametrize("classes, batch_size", [(2, 7), (3, 64), (5, 7)])
def test_equals_the_closed_form(classes, batch_size):
    model = linear_model(classes)
    x, y = data(model)
    margins = smallest_margins(model, x, y, EPSILON)
    # None is so close to the edge that rounding could decide it.
    assert np.abs(margins).min() > 1e-5
    best, options = BestStep(epsilon=EPSILON), {"return_images": True}
    report = report_of(model, (x, y), best, batch_size=batch_size, **options)
    clean = smallest_margins(model, x, y, 0) > 0
    assert 0.1 < (margins > 0).mean() < clean.mean() == 54 / 60
    assert report.clean_accuracy == clean.mean()
    assert report.robust_accuracy == (margins > 0).mean()
    np.testing.assert_array_equal(
        report.fallen_to, np.where(margins > 0, -1, np.where(clean, 1, 0))
    )
    np.testing.assert_array_equal(report.counts, np.bincount(y))
    robust_counts = np.bincount(y[margins > 0], minlength=classes)
    np.testing.assert_array_equal(report.robust_counts, robust_counts)
    # What is returned is misclassified and allowed; else it is the image.
    logits = model.predict(report.images, verbose=0)
    np.testing.assert_array_equal(logits.argmax(axis=1) == y, margins > 0)
    assert np.abs(report.images - x).max() <= EPSILON + 1e-6
    stands = report.fallen_to < 1
    np.testing.assert_array_equal(report.images[stands], x[stands])


def test_each_stage_and_attack_sees_what_stands(model):
    twice, once = NoSteps(2, epsilon=EPSILON), NoSteps(epsilon=EPSILON)
    report = report_of(model, data(model), twice, BEST, once)
    first, best, last = report.attacks
    standing = round(report.robust_accuracy * 60)
    assert (first.attacked, first.fell) == (54, 0)
    assert (best.attacked, best.fell) == (54, 54 - standing)
    assert (last.attacked, last.fell) == (standing, 0)
    assert first.accuracy == report.clean_accuracy
    assert best.accuracy == last.accuracy == report.robust_accuracy
    # One pass of the attack and one that checks, in each of two stages.
    assert (first.forward_passes, first.backward_passes) == (54 * 4, 54 * 2)
    assert best.forward_passes == best.backward_passes
    # The second stage ran on what the first had left.
    assert 54 < best.backward_passes < 108
    passes = [a.forward_passes for a in report.attacks]
    assert report.forward_passes == sum(passes)
    names = [a.name for a in report.attacks]
    assert names == ["NoSteps", "BestStep", "NoSteps (2)"]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch compiles nothing."
)
def test_is_compiled_once_whatever_is_left(model):
    attack = NoSteps(stages=2, epsilon=EPSILON)
    x, y = data(model)
    compiled = CompiledClassifier(model, batch_size=32)

    def run(count, seed):
        part = (x[:count], y[:count])
        evaluate(compiled, part, {"NoSteps": attack}, seed=seed, checks=False)

    run(60, seed=0)
    traces = len(attack._traces)
    for count in (50, 33, 20, 12, 9, 5, 1):
        for seed in (1, 2):
            run(count, seed)
    # TensorFlow leaves the size open; on JAX there are those of 32, 16 and 8.
    limit = 3 if keras.backend.backend() == "jax" else traces
    assert 0 < len(attack._traces) <= limit
    # Another call compiles again: the model may have changed.
    before = len(attack._traces)
    report_of(model, (x, y), attack)
    assert len(attack._traces) > before


class Switched(keras.layers.Layer):
    """Rounds, or adds noise; class attributes say how, which none looks at."""

    noise, straight_through = 0.0, True

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x):
        noise = keras.random.normal(ops.shape(x), seed=self.generator)
        rounded = ops.round(8 * x) / 8 - x
        if self.straight_through:
            rounded = ops.stop_gradient(rounded)
        return x + rounded + self.noise * noise


@pytest.mark.parametrize(
    "name, before, after",
    [
        ("activation", ops.negative, keras.activations.linear),
        ("noise", 0.5, 0.0),
        ("straight_through", False, True),
    ],
)
def test_a_model_that_is_changed_in_place_is_evaluated_as_it_is(
    monkeypatch, request, name, before, after
):
    """What was compiled for it before does not count any more."""
    linear = linear_model()
    model = with_function(lambda x: linear(Switched()(x)))
    attack = PGD(epsilon=EPSILON, steps=2, random_start=False)
    samples = data(linear, count=40)
    changed = linear.layers[-1] if name == "activation" else Switched
    monkeypatch.setattr(changed, name, before)
    first = report_of(model, samples, attack)
    monkeypatch.setattr(changed, name, after)
    second = report_of(model, samples, attack)
    assert second.robust_accuracy < second.clean_accuracy
    assert not np.array_equal(first.fallen_to, second.fallen_to)
    # TensorFlow compiles nothing any more.
    request.getfixturevalue("eagerly")
    third = report_of(model, samples, attack)
    np.testing.assert_array_equal(second.fallen_to, third.fallen_to)


@pytest.mark.usefixtures("eagerly")
def test_one_attack_object_serves_images_of_two_sizes():
    keras.utils.set_random_seed(0)
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((None, None, 1)), pool, dense])
    attacks = [FGSM(epsilon=EPSILON), Square(epsilon=EPSILON, queries=3)]
    images = [
        np.random.default_rng(side).random((10, side, side, 1), np.float32)
        for side in (4, 6)
    ]
    for x in images:
        report = report_of(model, (x, ops.argmax(model(x), axis=1)), *attacks)
        assert report.samples == 10 and report.attacks[0].attacked == 10
    with pytest.raises(ValueError, match="must have the same shape"):
        report_of(model, [(x, np.zeros(10, int)) for x in images], *attacks)


class Cheat(Attack):
    """Leaves the ball, and says so to nobody."""

    def run(self, classifier, x, labels, seed):
        return 0 * x

    def perturb(self, classifier, x, labels, seed):
        return 1 - x


def test_images_outside_the_ball_do_not_count(model):
    with pytest.warns(ReliabilityWarning, match=r"Cheat has returned 54 image"):
        report = report_of(model, data(model), Cheat(epsilon=EPSILON))
    assert report.robust_accuracy == report.clean_accuracy
    assert report.findings[0][0] == "outside-threat-model"
    # Nothing is known of what it takes.
    assert report.forward_passes is None and report.attacks[0].note is None


class OneForAll(Attack):
    """Returns a single image, whatever the batch."""

    def perturb(self, classifier, x, labels, seed):
        return x[:1]


def test_one_image_for_a_batch_is_refused(model):
    with pytest.raises(ValueError, match=r"one perturbation for each image"):
        report_of(model, data(model), OneForAll(epsilon=EPSILON))


@pytest.mark.parametrize("norm, step", [("linf", 0.25), ("l2", 0.125)])
def test_inside_knows_ball_and_bounds(norm, step):
    attack = Attack(norm=norm, epsilon=0.25)
    x = np.full((4, 2, 2, 1), 0.5, np.float32)
    moved = x.copy()
    moved[1] += step
    moved[2] += step + 1e-5
    x[3], moved[3] = 0.95, 1.01
    assert inside(attack, x, moved).tolist() == [True, True, False, False]


def test_nan_logits_are_wrong(model):
    x, y = data(model, wrong=0)
    # NaN where the first pixel is above a half.
    broken = with_function(lambda x: model(x) + 0 * ops.log(0.5 - x[:, 0, 0]))
    report = report_of(broken, (x, y), NoSteps(epsilon=EPSILON))
    assert report.clean_accuracy == (x[:, 0, 0, 0] < 0.5).mean()


def test_nothing_left_to_attack(model):
    samples, attack = data(model, wrong=60), NoSteps(epsilon=EPSILON)
    report = report_of(model, samples, attack, checks=True)
    assert report.clean_accuracy == report.robust_accuracy == 0
    assert report.attacks[0].attacked == report.forward_passes == 0


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_rounding_of_large_pixels_is_no_way_out(epsilon):
    # With pixels up to 255, x + δ rounds by more than 1e-6.
    model = linear_model(scale=1 / 255)
    x = 255 * np.random.default_rng(0).random((60, 4, 4, 1), np.float32)
    y = ops.argmax(model(x), axis=1)
    attack = FGSM(epsilon=epsilon, bounds=(0, 255))
    found = ops.convert_to_numpy(attack(model, x, y))
    assert inside(attack, x, found).all()
    report = evaluation.robust_accuracy(
        model, (x, y), attack, checks=False, verbose=0
    )
    right = ops.convert_to_numpy(ops.argmax(model(found), 1) == y)
    assert report.robust_accuracy == right.mean()
    assert report.attacks[0].backward_passes == 60
    assert report.findings == ()
    # What is further away than rounding explains is outside.
    assert not inside(attack, x, x + epsilon * 1.01).any()


def test_default_radius_is_in_the_units_of_the_bounds():
    for norm, usual in (("linf", 8 / 255), ("l2", 128 / 255)):
        assert Attack(norm).epsilon == usual
        assert Attack(norm, bounds=(-1, 1)).epsilon == 2 * usual
        grey = Attack(norm, bounds=(0, 255))
        assert grey.epsilon == pytest.approx(255 * usual)
    published = robustness.published("standard", None, None, (0, 255))
    assert published["APGD-CE"].epsilon == pytest.approx(8)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "attack",
    [
        APGD(epsilon=0.3, steps=5),
        FAB(epsilon=0.3, steps=5),
        Square(epsilon=0.3, queries=50),
    ],
)
def test_a_masked_class_does_not_switch_attacks_off(attack):
    model = linear_model(5)
    x, y = data(model, count=40, wrong=0)
    x, y = x[y != 2], y[y != 2]
    mask = np.array([False, False, True, False, False])
    masked = with_function(lambda x: ops.where(mask, -np.inf, model(x)))
    left = masked.predict(x, verbose=0).argmax(axis=1) == y
    report = report_of(masked, (x[left], y[left]), attack)
    assert report.robust_accuracy < 0.2

"""Each reliability check, on a classifier made for it and on a sound one."""

import pathlib
import pickle
import re
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from linear_case import BestStep
from linear_case import data
from linear_case import Noise
from linear_case import NoSteps
from linear_case import OwnConstructor
from linear_case import report_of
from linear_case import with_function

from keras_wake import evaluation
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.evaluation import ReliabilityWarning

pytestmark = pytest.mark.usefixtures("eagerly")

EPSILON = 0.06
STILL = NoSteps(epsilon=EPSILON)


def codes(classifier, data, *attacks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = report_of(classifier, data, *attacks, checks=True)
    warned = [w.message for w in caught if w.category is ReliabilityWarning]
    # What is warned of is in the report, in the order of the checks.
    assert [(w.code, w.message) for w in warned] == list(report.findings)
    return [w.code for w in warned], report


def test_nothing_is_found_on_a_sound_classifier(model):
    pgd = PGD(epsilon=EPSILON, steps=5, step_size=EPSILON / 2)
    found, report = codes(model, data(model), pgd, BestStep(epsilon=EPSILON))
    assert found == []
    assert "doubtful" not in str(report)


def test_softmax(model):
    soft = with_function(lambda x: ops.softmax(model(x)))
    found, report = codes(soft, data(model), STILL)
    assert found == ["softmax"]
    assert "[softmax] The classifier returns probabilities" in str(report)
    with pytest.warns(ReliabilityWarning) as caught:
        evaluation.autoattack(soft, data(model), attacks=[STILL], verbose=0)
    # The warning points to the caller.
    ours = [w for w in caught if w.category is ReliabilityWarning]
    assert [w.filename for w in ours] == [__file__]
    # Checks can be left out; a warning would fail the test.
    assert report_of(soft, data(model), STILL, checks=False).findings == ()


def test_random_outputs(model):
    # Small logits are random as well.
    noisy = with_function(lambda x: 1e-2 * Noise(0.5)(model(x)))
    found, report = codes(noisy, data(model), STILL)
    assert found == ["random-outputs"]
    assert 'version="rand"' in report.findings[0][1]
    # An image near the boundary is wrong in some of the passes: the one that
    # judges draws numbers of its own, although the attack moves nothing.
    assert report.robust_accuracy < report.clean_accuracy


def test_another_draw_is_no_finding_about_the_attacks(model):
    noisy = with_function(lambda x: Noise(2.0)(model(x)))
    attacks = [
        PGD(epsilon=1e-6, steps=1, random_start=False),
        Square(epsilon=1e-6, queries=1),
    ]
    found, report = codes(noisy, data(model, 300), *attacks)
    # The second attack breaks more than the thresholds allow.
    assert report.attacks[1].fell >= 3
    assert found == ["random-outputs"]


def test_rounding_is_no_randomness(model):
    tiny = with_function(lambda x: Noise(1e-7)(model(x)))
    assert codes(tiny, data(model), STILL)[0] == []


def test_zero_gradients(model):
    # So large that the softmax is 0 or 1 in float32.
    large = with_function(lambda x: 1e5 * model(x))
    found, report = codes(large, data(model, wrong=0), STILL)
    assert found == ["zero-gradients"]
    assert "at 60 of 60 images (100%)" in report.findings[0][1]


def test_a_gradient_that_is_cut_is_a_finding_and_no_error(model):
    # Of four grey levels.
    classifier = with_function(lambda x: model(ops.round(3 * x) / 3))
    x, _ = data(model)
    y = ops.argmax(classifier(x), axis=1)
    attacks = [
        PGD(epsilon=0.2, steps=1),
        APGD(epsilon=0.2, steps=1, loss="dlr_targeted", target_classes=1),
        FAB(epsilon=0.2, steps=1, target_classes=1),
        Square(epsilon=0.2, queries=40),
    ]
    found, report = codes(classifier, (x, y), *attacks)
    assert found[0] == "zero-gradients"
    assert "at 60 of 60 images (100%)" in report.findings[0][1]
    # What sees no gradient finds most.
    assert report.attacks[3].fell > max(a.fell for a in report.attacks[:3])
    assert "black-box" in found


def test_infinite_logits(model):
    mask = np.array([False, False, True])
    masked = with_function(lambda x: ops.where(mask, -np.inf, model(x)))
    x, _ = data(model)
    y = masked.predict(x, verbose=0).argmax(axis=1)
    found, report = codes(masked, (x, y), STILL)
    assert found == ["non-finite"]
    assert "60 of 60 images" in report.findings[0][1]


def test_warns_before_the_attacks_and_again_when_it_goes_on(model, tmp_path):
    class Interrupted(NoSteps):
        def run_stage(self, *arguments):
            raise KeyboardInterrupt

    soft = with_function(lambda x: ops.softmax(model(x)))
    attack = Interrupted(epsilon=EPSILON)
    options = {"state": tmp_path / "state.npz", "checks": True}
    for _ in range(2):
        with (
            pytest.warns(ReliabilityWarning, match="softmax"),
            pytest.raises(KeyboardInterrupt),
        ):
            report_of(soft, data(model), attack, **options)
    assert options["state"].exists()


def test_a_sweep_is_checked_where_half_of_the_images_are_left(model):
    # Of few steps of a fixed size, which reach the edge of small balls only.
    def slow(radius):
        return PGD(epsilon=radius, steps=2, step_size=0.02, random_start=False)

    with pytest.warns(ReliabilityWarning, match="PGD-2 at 0.06 breaks"):
        sweep = evaluation.epsilon_sweep(
            model, data(model), [0.01, 0.02, 0.06], slow, verbose=0
        )
    assert sweep.accuracies[1] > 0.5


def test_black_box_below_white_box(model):
    class BlackBox(BestStep):
        def passes(self, num_classes):
            return 1, 0

    black, best = BlackBox(epsilon=EPSILON), BestStep(epsilon=EPSILON)
    found, report = codes(model, data(model), STILL, black)
    assert found == ["black-box"]
    fell = report.attacks[1].fell
    assert f"breaks {fell} images" in report.findings[0][1]
    assert f"{100 * fell / 60:.1f} points" in report.findings[0][1]
    # Alone it has no white-box attack to compare with, and one that follows
    # an attack as good as itself breaks nothing.
    assert codes(model, data(model), black)[0] == []
    assert codes(model, data(model), best, black)[0] == []


def test_too_few_steps(model):
    slow = PGD(
        epsilon=EPSILON, steps=2, step_size=EPSILON / 5, random_start=False
    )
    found, report = codes(model, data(model), slow)
    assert found == ["not-converged"]
    longer = PGD(**{**slow.get_config(), "steps": 4})
    after = report_of(model, data(model), longer)
    more = after.attacks[0].fell - report.attacks[0].fell
    assert more >= 3
    assert f"breaks {more} more of 54 images" in report.findings[0][1]


class Undecided(PGD):
    """Whose configuration does not say how many steps there are."""

    def get_config(self):
        return {**super().get_config(), "steps": None}


@pytest.mark.parametrize("attack", [OwnConstructor, Undecided])
def test_a_check_that_cannot_be_made_does_not_cost_the_number(model, attack):
    found, report = codes(model, data(model), attack())
    assert found == []
    assert report.robust_accuracy < report.clean_accuracy


def test_warning_names_code_and_page():
    warning = ReliabilityWarning("softmax", "Too soft.")
    assert (
        str(warning) == "[softmax] Too soft. See docs/reliability.md#softmax."
    )
    again = pickle.loads(pickle.dumps(warning))
    assert (again.code, again.message) == ("softmax", "Too soft.")
    assert issubclass(ReliabilityWarning, UserWarning)


def test_every_code_has_its_section():
    root = pathlib.Path(__file__).parents[2]
    page = (root / "docs" / "reliability.md").read_text()
    sections = set(re.findall(r"\{ ?#([\w-]+) ?\}", page))
    source = (root / "keras_wake" / "evaluation" / "reliability.py").read_text()
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)+|softmax)",\n', source))
    assert named == sections
    assert len(sections) == 9


class Root(keras.layers.Layer):
    """√x, without a gradient where a pixel is 0."""

    def call(self, x):
        return ops.sqrt(x)


def test_non_finite_gradients(model):
    x = np.random.default_rng(0).uniform(0.2, 1, (12, 4, 4, 1))
    x = x.astype("float32")
    x[:3, :2] = 0
    network = with_function(lambda x: model(Root()(x)))
    y = np.argmax(network.predict(x, verbose=0), axis=1)
    found, report = codes(network, (x, y), PGD(epsilon=0.01, steps=1))
    assert found == ["non-finite-gradients"]
    assert "at 3 of 12 images (25%), there in 50%" in report.findings[0][1]


@pytest.mark.parametrize("factor", [1e-20, 1e-6])
def test_equal_losses(model, factor):
    tiny = with_function(lambda x: factor * model(x))
    found, report = codes(tiny, data(model), STILL)
    assert found == ["equal-losses"]
    logits = model.predict(data(model)[0], verbose=0)
    widest = factor * np.ptp(logits, axis=1).max()
    assert f"to {widest:.2g}, and" in report.findings[0][1]

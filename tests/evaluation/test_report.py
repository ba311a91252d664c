"""The report: numbers, JSON there and back, text."""

import dataclasses
import json

import numpy as np
import pytest
from linear_case import BestStep
from linear_case import data
from linear_case import linear_model
from linear_case import NoSteps
from linear_case import OwnConstructor
from linear_case import smallest_margins
from linear_case import with_function
from scipy import stats

import keras_wake
from keras_wake import evaluation
from keras_wake.attacks import FGSM
from keras_wake.checkpoint import archive
from keras_wake.evaluation import RobustnessReport
from keras_wake.evaluation import wilson_interval


@pytest.fixture(scope="module")
def report():
    model = linear_model(4)
    x, y = data(model)
    kept = y != 2
    return evaluation.autoattack(
        model,
        (x[kept], y[kept]),
        attacks=[NoSteps(epsilon=0.05), BestStep(epsilon=0.05)],
        class_names=["ant", "bee", "cat", "a name of more than twenty letters"],
        seed=3,
        verbose=0,
        return_images=True,
    )


def test_numbers_agree_with_each_other(report):
    count = len(report.fallen_to)
    assert report.samples == report.counts.sum() == count
    assert report.clean_accuracy == (report.fallen_to != 0).mean()
    assert report.robust_accuracy == (report.fallen_to == -1).mean()
    clean = round(report.clean_accuracy * count)
    robust = round(report.robust_accuracy * count)
    assert report.clean_interval == wilson_interval(clean, count)
    assert report.robust_interval == wilson_interval(robust, count)
    last = report.attacks[-1]
    assert last.accuracy == report.robust_accuracy
    assert last.interval == report.robust_interval
    shares = report.robust_counts[[0, 1, 3]] / report.counts[[0, 1, 3]]
    np.testing.assert_array_equal(
        report.class_robust_accuracy[[0, 1, 3]], shares
    )
    assert np.isnan(report.class_clean_accuracy[2])
    assert report.seconds == sum(a.seconds for a in report.attacks) > 0
    assert report.versions["keras_wake"] == keras_wake.__version__
    assert report.date.endswith("+00:00")
    assert report.seed == 3 and report.version == "custom"
    assert report.attacks[1].settings == repr(BestStep(epsilon=0.05))


def test_json_there_and_back(report):
    text = report.to_json(indent=1)
    found = json.loads(text)
    assert found == report.to_dict()
    assert found["interval_method"] == "Wilson" and found["confidence"] == 0.95
    assert found["classes"][2] == {
        "name": "cat",
        "samples": 0,
        "clean": 0,
        "robust": 0,
        "clean_accuracy": None,
        "robust_accuracy": None,
    }
    again = RobustnessReport.from_json(text)
    assert again.to_json(indent=1) == text
    assert str(again) == str(report)
    assert again.attacks == report.attacks
    # What is large is not in it.
    assert again.fallen_to is None and again.images is None


def test_text(report):
    lines = str(report).splitlines()
    low, high = report.robust_interval
    assert lines[0] == (
        f"{report.samples} samples of 4 classes, linf, epsilon 0.05, version "
        "'custom', seed 3"
    )
    assert f"robust accuracy {100 * report.robust_accuracy:.1f} %" in lines[1]
    assert f"[{100 * low:.1f}, {100 * high:.1f}] (95% interval" in lines[1]
    row = next(line for line in lines if line.startswith("BestStep"))
    best = report.attacks[1]
    assert row.split()[1:3] == [str(best.attacked), str(best.fell)]
    assert f"{best.backward_passes:,}" in row
    row = next(line for line in lines if line.startswith("cat"))
    assert row.split() == ["cat", "0", "-", "-"]
    assert "a name of …y letters" in str(report)
    assert repr(report).startswith("<RobustnessReport of ")


def test_text_of_findings_notes_and_what_is_unknown(report):
    attack = dataclasses.replace(
        report.attacks[0], note="A margin instead.", forward_passes=None
    )
    doubtful = dataclasses.replace(
        report, findings=(("softmax", "It is soft."),), attacks=(attack,)
    )
    text = str(doubtful)
    assert "what makes these numbers doubtful\n[softmax] It is soft." in text
    assert "NoSteps: A margin instead." in text
    assert doubtful.forward_passes is None
    row = next(s for s in text.splitlines() if s.startswith("NoSteps "))
    assert row.split()[-3] == "-"


def test_text_of_many_classes_is_short(report):
    many = dataclasses.replace(
        report,
        class_names=[str(i) for i in range(60)],
        counts=np.full(60, 10),
        clean_counts=np.full(60, 9),
        robust_counts=np.arange(60) % 10,
    )
    text = str(many)
    assert "the 25 of 60 classes with the lowest robust accuracy" in text
    assert len(text.splitlines()) < 40
    assert text.splitlines()[-1].endswith("40.0 %")


def expected_accuracies(model, samples, radii):
    return [
        (smallest_margins(model, *samples, radius) > 0).mean()
        for radius in radii
    ]


def test_sweep_never_rises_and_ends_at_zero(model):
    samples, radii = data(model), [0.05, 0, 1.0, 0.01]
    sweep = evaluation.epsilon_sweep(
        model, samples, radii, lambda r: BestStep(epsilon=r), verbose=0
    )
    assert sweep.epsilons == (0, 0.01, 0.05, 1.0)
    expected = expected_accuracies(model, samples, sweep.epsilons)
    assert expected == sorted(expected, reverse=True)
    assert sweep.accuracies == pytest.approx(expected)
    assert sweep.accuracies[-1] == 0
    assert sweep.intervals[1] == wilson_interval(round(60 * expected[1]), 60)
    found = json.loads(sweep.to_json(indent=1))
    assert found == sweep.to_dict()
    assert [p["epsilon"] for p in found["points"]] == list(sweep.epsilons)
    lines = str(sweep).splitlines()
    assert lines[0].startswith("60 samples, linf, BestStep, seed 0")
    assert lines[3].split()[:2] == ["0.01", f"{100 * expected[1]:.1f}"]
    assert "4 radii up to 1" in repr(sweep)


def test_sweep_rescales_an_attack(model, tmp_path):
    path = tmp_path / "state.npz"
    pattern = FGSM(epsilon=0.1, step_size=0.05)
    sweep = evaluation.epsilon_sweep(
        model, data(model), [0.02, 0.2], attack=pattern, state=path, verbose=0
    )
    state, _ = archive.read(path)
    assert state["fingerprint"]["settings"]["attacks"] == [
        f"FGSM at {radius}: {FGSM(epsilon=radius, step_size=radius / 2)!r}"
        for radius in (0.02, 0.2)
    ]
    # Not the radius and the step size of the pattern, which no point has.
    assert sweep.attack.startswith("FGSM(norm='linf', bounds=[0.0, 1.0]")
    assert "step_size=0.5 * epsilon" in sweep.attack


def test_sweep_tells_what_makes_it_doubtful(model):
    large = with_function(lambda x: 1e5 * model(x))
    with pytest.warns(evaluation.ReliabilityWarning):
        sweep = evaluation.epsilon_sweep(
            large, data(model), [0, 0.05], FGSM(), verbose=0
        )
    assert sweep.findings[0][0] == "zero-gradients"
    assert "doubtful\n[zero-gradients] The gradient" in str(sweep)


def test_sweep_knows_its_bounds(model):
    x, y = data(model)
    grey = with_function(lambda x: model(x / 255))
    attack = FGSM(epsilon=25, bounds=(0, 255))
    sweep = evaluation.epsilon_sweep(
        grey, (255 * x, y), [0, 4], attack, verbose=0, checks=False
    )
    assert sweep.bounds == (0, 255)
    assert json.loads(sweep.to_json())["bounds"] == [0, 255]
    right = expected_accuracies(model, (x, y), [0, 4 / 255])
    assert sweep.accuracies == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"epsilons": []}, ValueError, "at least one radius"),
        ({"epsilons": [-1]}, ValueError, "`epsilon` must be at least 0"),
        ({"epsilons": "0, 8/255"}, TypeError, "must be a list of radii"),
        ({"epsilons": 0.1}, TypeError, "must be a list of radii"),
        (
            {"attack": OwnConstructor()},
            TypeError,
            r"what `OwnConstructor.get_config\(\)` returns, and could not",
        ),
        ({"attack": "pgd"}, ValueError, "`attack` must be one of 'standard'"),
        ({"attack": 3}, TypeError, r"`attack` must be an attack, a function"),
        (
            {"attack": lambda radius: FGSM(epsilon=0.01)},
            ValueError,
            r"of the radius that it is given. Received, for 0.1: FGSM\(",
        ),
        (
            {"attack": FGSM(), "norm": "linf"},
            ValueError,
            "are those of the attack; leave them out",
        ),
        (
            {"attack": FGSM(epsilon=0)},
            ValueError,
            "greater than 0.*step size of `attack` is in proportion",
        ),
    ],
)
def test_sweep_refuses_bad_arguments(model, arguments, error, message):
    arguments = {"epsilons": [0.1], **arguments}
    with pytest.raises(error, match=message):
        evaluation.epsilon_sweep(model, data(model), verbose=0, **arguments)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "RobustnessReport`: it has no 'classes'"),
        ("[1]", "not the dictionary, or JSON"),
        ("null", "not the dictionary, or JSON"),
        ("report.json", "what `to_json` has returned.*read_text"),
        (None, "what `to_json` has returned.*not NoneType"),
    ],
)
def test_other_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        RobustnessReport.from_json(text)


def test_a_damaged_report_is_refused(report):
    found = report.to_dict()
    assert RobustnessReport.from_dict(found).samples
    for damage in (
        {"classes": []},
        {"classes": [{}]},
        {"attacks": [{"name": "PGD"}]},
        {"epsilon": "large"},
        {"findings": [["code", "text"]]},
    ):
        with pytest.raises(ValueError, match="not the dictionary, or JSON"):
            RobustnessReport.from_dict(found | damage)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("samples", [1, 7, 500])
def test_interval_equals_scipy(samples, confidence):
    for successes in {0, 1, samples // 3, samples}:
        expected = stats.binomtest(successes, samples).proportion_ci(
            confidence, method="wilson"
        )
        found = wilson_interval(successes, samples, confidence)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_stays_within_zero_and_one_and_is_not_empty():
    low, high = wilson_interval(0, 10)
    assert low == 0 and 0 < high < 1
    low, high = wilson_interval(10, 10)
    assert 0 < low < 1 and high == 1


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((3, 2), ValueError, "at most `samples`.*successes=3, samples=2"),
        ((0, 0), ValueError, "`samples` must be at least 1"),
        ((-1, 2), ValueError, "`successes` must be at least 0"),
        ((1, 2, 1.0), ValueError, "`confidence` must be at least 0 and below"),
        ((0.5, 2), TypeError, "`successes` must be an integer"),
    ],
)
def test_interval_refuses_what_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        wilson_interval(*arguments)

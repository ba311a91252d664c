"""Shares of an evaluation, joined, are the evaluation of all images."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from linear_case import BestStep
from linear_case import data
from linear_case import linear_model
from linear_case import Noise
from linear_case import report_of
from linear_case import with_function

from keras_wake import evaluation
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.attacks import StagedAttack
from keras_wake.evaluation import join_reports
from keras_wake.evaluation import ReliabilityWarning
from keras_wake.evaluation import RobustnessReport

COUNT = 61
# The second one has too few steps, so that twice as many break more, and
# Square breaks what it leaves. A single step is not doubled.
ATTACKS = [
    PGD(epsilon=0.06, steps=1, step_size=0.0075, random_start=False),
    PGD(epsilon=0.06, steps=2, step_size=0.0075),
    Square(epsilon=0.06, queries=60),
    BestStep(epsilon=0.06),
]


class TooFar(StagedAttack):
    """Leaves the ball; `perturb_stage` is not asked to project."""

    def perturb_stage(self, classifier, x, labels, seed, stage):
        return x + 2 * self.epsilon

    def run_stage(self, classifier, x, labels, seed, stage):
        raise NotImplementedError


def without_time(report):
    """What must be the same, as JSON has it."""
    found = report.to_dict()
    del found["date"], found["seconds"]
    for attack in found["attacks"]:
        del attack["seconds"]
    return found


def through_json(reports):
    return [RobustnessReport.from_json(report.to_json()) for report in reports]


def shares_of(model, samples, count, *attacks, **options):
    return [
        report_of(model, samples, *attacks, shard=(index, count), **options)
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def samples(model):
    return data(model, COUNT)


@pytest.fixture(scope="module")
def whole(model, samples):
    with pytest.warns(ReliabilityWarning):
        return report_of(
            model, samples, *ATTACKS, checks=True, return_images=True
        )


@pytest.fixture(scope="module")
def shares(model, samples):
    with pytest.warns(ReliabilityWarning):
        return shares_of(
            model, samples, 3, *ATTACKS, checks=True, return_images=True
        )


def test_joined_shares_are_the_whole(whole, shares):
    # Something fell to each attack, something stands, and both are doubtful.
    assert set(whole.fallen_to) == {-1, 0, 1, 2, 3, 4}
    assert [c for c, _ in whole.findings] == ["black-box", "not-converged"]
    assert [share.samples for share in shares] == [21, 20, 20]
    with pytest.warns(ReliabilityWarning) as warned:
        joined = join_reports(shares[::-1])
    assert without_time(joined) == without_time(whole)
    assert [(w.message.code, w.message.message) for w in warned] == [
        *whole.findings
    ]
    np.testing.assert_array_equal(joined.fallen_to, whole.fallen_to)
    np.testing.assert_array_equal(joined.images, whole.images)
    seconds = sum(share.seconds for share in shares)
    assert joined.seconds == pytest.approx(seconds)
    for share in shares:
        assert share.batch_size == joined.batch_size
    assert joined.shard is None and "shard" not in joined.to_dict()


def test_shares_are_joined_from_files(whole, shares):
    read = through_json(shares)
    assert [r.to_json() for r in read] == [r.to_json() for r in shares]
    with pytest.warns(ReliabilityWarning):
        joined = join_reports(read)
    assert without_time(joined) == without_time(whole)
    # Files do not hold what is known of each image.
    assert joined.fallen_to is None and joined.images is None
    # What is printed is the same but for the seconds at the end of lines.
    lines = [
        [line.rpartition(" ")[0] for line in str(report).splitlines()]
        for report in (joined, whole)
    ]
    assert [line.split() for line in lines[0]] == [
        line.split() for line in lines[1]
    ]


def test_a_share_says_which_it_is(shares):
    shard = shares[1].shard
    assert (shard.index, shard.count, shard.samples) == (1, 3, COUNT)
    assert "shard (1, 3) of 61 samples: these numbers are about its" in str(
        shares[1]
    )
    assert shares[1].to_dict()["shard"]["index"] == 1
    # Each image is in one share.
    places = np.concatenate([share.shard.places for share in shares])
    assert sorted(places) == list(range(COUNT))
    for share in shares:
        assert len(share.fallen_to) == share.samples == len(share.images)


@pytest.mark.parametrize(
    ("scale", "code", "words"),
    [
        (1e4, "zero-gradients", "at 20 of 20 images"),
        (1, "not-converged", "more of 15 images"),
    ],
)
def test_checks_look_at_the_same_images_in_shares(
    monkeypatch, samples, model, scale, code, words
):
    for name, number in (("PROBED_GRADIENTS", 20), ("PROBED_STEPS", 15)):
        monkeypatch.setattr(f"keras_wake.evaluation.reliability.{name}", number)
    scaled, attacks = with_function(lambda x: scale * model(x)), ATTACKS[:3]
    with pytest.warns(ReliabilityWarning):
        whole = report_of(scaled, samples, *attacks, checks=True)
    assert words in dict(whole.findings)[code]
    for count in (2, 7):
        with pytest.warns(ReliabilityWarning):
            found = shares_of(scaled, samples, count, *attacks, checks=True)
            joined = join_reports(through_json(found))
        assert joined.findings == whole.findings


def test_images_outside_the_ball_are_counted_together(model, samples):
    attack = TooFar(epsilon=0.06)
    options = {"checks": False}
    with pytest.warns(ReliabilityWarning, match="outside-threat-model"):
        whole = report_of(model, samples, attack, **options)
        found = shares_of(model, samples, 4, attack, **options)
        joined = join_reports(found)
    assert [code for code, _ in whole.findings] == ["outside-threat-model"]
    assert without_time(joined) == without_time(whole)


def test_as_many_shares_as_images(model):
    x, y = data(model, 5, wrong=1)
    whole = report_of(model, (x, y), BestStep(epsilon=0.06))
    found = shares_of(model, (x, y), 5, BestStep(epsilon=0.06))
    # Two of the three classes have no image in a share.
    assert all((share.counts == 0).sum() == 2 for share in found)
    assert without_time(join_reports(found)) == without_time(whole)
    with pytest.raises(
        ValueError, match=r"one image for each share.*\(0, 6\) and 5 image"
    ):
        report_of(model, (x, y), BestStep(epsilon=0.06), shard=(0, 6))


def test_one_share_of_one(model, samples):
    attack = PGD(epsilon=0.06, steps=2)
    options = {"verbose": 0, "checks": False}
    whole = evaluation.robust_accuracy(model, samples, attack, **options)
    only = evaluation.robust_accuracy(
        model, samples, attack, shard=[0, 1], **options
    )
    assert without_time(join_reports([only])) == without_time(whole)


def test_a_share_goes_on_from_its_own_state(model, samples, shares, tmp_path):
    path = tmp_path / "state.npz"
    arguments = (model, samples, *ATTACKS)
    options = {"checks": True, "return_images": True, "state": path}
    with pytest.warns(ReliabilityWarning):
        report_of(*arguments, shard=(1, 3), **options)
        # From a file in which all is done.
        again = report_of(*arguments, shard=(1, 3), **options)
    assert without_time(again) == without_time(shares[1])
    for shard in ((2, 3), None):
        with pytest.raises(ValueError, match=r"`shard` \(\[1, 3\] in the file"):
            report_of(*arguments, shard=shard, **options)


def test_data_in_another_order_join_without_their_places(
    model, samples, whole, shares
):
    x, y = samples
    with pytest.warns(ReliabilityWarning):
        other = report_of(
            model,
            (x[::-1], y[::-1]),
            *ATTACKS,
            checks=True,
            return_images=True,
            shard=(2, 3),
        )
        joined = join_reports([*shares[:2], other])
    assert without_time(joined) == without_time(whole)
    assert joined.fallen_to is None and joined.images is None


def test_shares_of_another_evaluation_are_refused(model, samples):
    x, y = samples
    attack = PGD(epsilon=0.06, steps=1)
    other = linear_model(seed=5)
    first, _ = shares_of(model, samples, 2, attack)
    retrained = keras.models.clone_model(model)
    retrained.set_weights([1.01 * w for w in model.get_weights()])
    deeper = with_function(model)
    for arguments, options, message in (
        ((other, samples, attack), {}, "differ: the weights of the classifier"),
        ((retrained, samples, attack), {}, "the weights of the classifier"),
        ((deeper, samples, attack), {}, "the layers of the classifier"),
        ((model, (x[:-1], y[:-1]), attack), {}, "the images or labels"),
        ((model, samples, attack), {"seed": 1}, "`seed` (0 in share 0, 1 in"),
        ((model, samples, PGD(epsilon=0.05)), {}, "`attacks` ("),
        ((model, samples, attack), {"checks": True}, "`checks` (False in"),
        (
            (model, samples, attack),
            {"class_names": ["a", "b", "c"]},
            "`class_names` (",
        ),
    ):
        second = report_of(*arguments, shard=(1, 2), **options)
        with pytest.raises(ValueError, match="shares 0 and 1 are not") as error:
            join_reports(through_json([second, first]))
        assert message in str(error.value)


def test_what_layers_and_weights_do_not_tell_is_noticed(model, samples):
    first, second = shares_of(model, samples, 2, BestStep(epsilon=0.06))
    outputs = np.array(second.shard.fingerprint["outputs"]) + 1
    fingerprint = {**second.shard.fingerprint, "outputs": outputs}
    shard = dataclasses.replace(second.shard, fingerprint=fingerprint)
    other = dataclasses.replace(second, shard=shard)
    with pytest.raises(ValueError, match="although layers and weights agree"):
        join_reports([first, other])
    # Not so much as the digits in which two machines differ.
    fingerprint["outputs"] = outputs - 1 + 1e-6
    assert join_reports([first, other]).samples == COUNT
    newer = {**second.versions, "keras": "9.0"}
    with pytest.raises(ValueError, match=r"`versions` \(.*'keras': '9.0'"):
        join_reports([first, dataclasses.replace(second, versions=newer)])


def test_missing_and_doubled_shares_are_refused(model, samples, shares):
    one, two, three = shares
    attack = BestStep(epsilon=0.06)
    whole = report_of(model, samples, attack)
    half = report_of(model, samples, attack, shard=(0, 2))
    for reports, error, message in (
        ([one, three], ValueError, r"each of the 3.*missing: \[1\]"),
        ([one, two, two, three], ValueError, r"more than once: \[1\]"),
        ([one, one, two], ValueError, r"missing: \[2\]; more than once: \[0\]"),
        (
            [one, two, half],
            ValueError,
            "one division. Received: shares of 2, 3",
        ),
        ([whole], ValueError, "about all of its images"),
        ([], ValueError, "at least one report"),
        (one, TypeError, "list of `RobustnessReport`"),
        ([one.to_json()], TypeError, "read files with `RobustnessReport.from"),
        ("shares", TypeError, "list of `RobustnessReport`"),
    ):
        with pytest.raises(error, match=message):
            join_reports(reports)


def test_random_outputs_are_joined(model, samples):
    inputs = keras.Input(model.input_shape[1:])
    noisy = keras.Model(inputs, model(Noise(0.02)(inputs)))
    found = shares_of(noisy, samples, 2, PGD(epsilon=0.06, steps=2))
    joined = join_reports(through_json(found))
    assert joined.passes_per_prediction == 20
    assert joined.samples == COUNT
    assert joined.forward_passes == sum(r.forward_passes for r in found)


def test_a_changed_file_is_refused(shares):
    text = shares[0].to_json()
    for name, value in (
        ("index", 3),
        ("samples", 2),
        ("steps", {"positions": [1]}),
        ("fingerprint", {}),
    ):
        found = json.loads(text)
        found["shard"][name] = value
        with pytest.raises(ValueError, match="not the dictionary, or JSON"):
            RobustnessReport.from_dict(found)
    found = json.loads(text)
    found["classes"][0]["samples"] += 1
    changed = RobustnessReport.from_dict(found)
    with pytest.raises(ValueError, match="contradict each other"):
        join_reports([changed, *shares[1:]])


@pytest.mark.parametrize(
    ("shard", "error", "message"),
    [
        ((2, 2), ValueError, r"i from 0 to n - 1.*\(2, 2\)"),
        ((0, 0), ValueError, "i from 0 to n - 1"),
        ((-1, 2), ValueError, "at least 0"),
        ((0.0, 2), TypeError, "must be an integer"),
        (1, TypeError, r"a pair \(i, n\).*shard=1"),
        ((0, 1, 2), TypeError, r"a pair \(i, n\)"),
        ("01", TypeError, r"a pair \(i, n\)"),
    ],
)
def test_bad_shards_are_refused(model, samples, shard, error, message):
    with pytest.raises(error, match=message):
        report_of(model, samples, BestStep(epsilon=0.06), shard=shard)

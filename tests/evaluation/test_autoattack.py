"""AutoAttack on networks: what must hold, and what must be seen through."""

import keras
import numpy as np
import pytest
from linear_case import data
from linear_case import linear_model
from linear_case import Noise
from linear_case import report_of
from linear_case import smallest_margins
from linear_case import with_function

import keras_wake as kw
from keras_wake import evaluation
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.evaluation import robustness

pytestmark = pytest.mark.usefixtures("all_eagerly")

EPSILON = 0.1
SHAPE = (8, 8, 1)
QUIET = {"verbose": 0, "checks": False}


@pytest.fixture(scope="module")
def splits():
    return kw.datasets.load("digits", batch_size=50, test_limit=150)


@pytest.fixture(scope="module")
def digits(splits):
    """The images and labels of the test set."""
    x, y = map(np.concatenate, zip(*splits.test, strict=True))
    return x, y


@pytest.fixture(scope="module")
def trained(splits):
    """A small network, trained adversarially for a few epochs."""
    x, y = map(np.concatenate, zip(*splits.train, strict=True))
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(48, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model = kw.WakeModel(classifier, PGD(epsilon=EPSILON, steps=3))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(x[:400], y[:400], epochs=12, batch_size=100, verbose=0)
    return classifier


# The kinds of the standard version, with few steps.
SHORT = [
    APGD(steps=10, epsilon=EPSILON),
    APGD(steps=10, epsilon=EPSILON, loss="dlr_targeted", target_classes=2),
    Square(queries=50, epsilon=EPSILON),
]
PGD_20 = PGD(epsilon=EPSILON, steps=20)


@pytest.fixture(scope="module")
def honest(trained, digits):
    return report_of(trained, digits, *SHORT)


def test_the_longer_the_list_the_lower_the_accuracy(trained, digits, honest):
    pgd = evaluation.robust_accuracy(trained, digits, PGD_20, **QUIET)
    assert all(attack.fell > 0 for attack in honest.attacks[:2])
    assert honest.clean_accuracy > 0.8 and honest.robust_accuracy > 0.2
    # Of 150 images one is 0.7 points.
    assert pgd.robust_accuracy >= honest.attacks[0].accuracy - 0.01
    assert pgd.robust_accuracy >= honest.robust_accuracy


def test_neither_order_nor_size_of_batches_matter(trained, digits):
    x, y = digits
    attacks = [
        PGD(epsilon=EPSILON, steps=3),
        APGD(steps=5, epsilon=EPSILON, restarts=2),
        Square(queries=20, epsilon=EPSILON),
    ]
    first = report_of(trained, (x, y), *attacks)
    order = np.random.default_rng(0).permutation(len(x))
    shuffled = x[order], y[order]
    for size in (128, 33):
        other = report_of(trained, shuffled, *attacks, batch_size=size)
        np.testing.assert_array_equal(other.fallen_to, first.fallen_to[order])


def test_another_seed_draws_other_numbers(trained, digits):
    part = digits[0][:40], digits[1][:40]
    attack, options = PGD(epsilon=EPSILON, steps=1), {"return_images": True}
    images = [
        evaluation.robust_accuracy(
            trained, part, attack, seed=seed, **options, **QUIET
        ).images
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_masked_gradients_are_exposed(trained, digits, honest):
    # The same decisions, with logits so large that the cross-entropy has no
    # gradient left in float32.
    masked = with_function(lambda x: 1e5 * trained(x), SHAPE)
    with pytest.warns(evaluation.ReliabilityWarning, match="zero-gradients"):
        flattered = evaluation.robust_accuracy(
            masked, digits, PGD_20, verbose=0
        )
    report = report_of(masked, digits, PGD_20, *SHORT)
    assert flattered.clean_accuracy == honest.clean_accuracy
    # PGD breaks what a random start does; the list is not taken in.
    assert flattered.robust_accuracy > honest.robust_accuracy + 0.1
    assert report.robust_accuracy <= honest.robust_accuracy + 0.02
    assert report.attacks[0].accuracy == flattered.robust_accuracy


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_reach_the_closed_form(classes):
    model = linear_model(classes)
    x, y = data(model, count=40)
    margins = smallest_margins(model, x, y, 0.06)
    assert np.abs(margins).min() > 1e-4
    losses = ("cross_entropy", "dlr_targeted")
    attacks = [APGD(epsilon=0.06, steps=20, loss=loss) for loss in losses]
    report = report_of(model, (x, y), *attacks)
    assert report.robust_accuracy == (margins > 0).mean()
    # The report says what takes the place of the loss that is not defined.
    assert report.attacks[1].note in str(report)


def test_l2_images_are_in_the_ball(trained, digits):
    x, y = digits[0][:60], digits[1][:60]
    attack = APGD("l2", epsilon=0.8, steps=5)
    report = report_of(trained, (x, y), attack, return_images=True)
    sizes = np.linalg.norm((report.images - x).reshape(60, -1), axis=1)
    assert report.norm == "l2" and report.robust_accuracy < 0.8
    assert sizes.max() <= 0.8 + 1e-6
    fell = report.fallen_to == 1
    logits = trained.predict(report.images[fell], verbose=0)
    assert (logits.argmax(axis=1) != y[fell]).all()


@pytest.fixture
def noisy(trained):
    return with_function(lambda x: trained(Noise(0.3)(x)), SHAPE)


def test_averaging_over_passes_on_a_random_network(noisy, digits):
    attack = APGD(steps=2, epsilon=0.1, eot_samples=4)
    report = report_of(noisy, digits, attack, checks=True)
    # It is what the check for random outputs advises.
    assert all(code != "random-outputs" for code, _ in report.findings)
    (found,) = report.attacks
    # The start, two steps, and the passes that judge.
    assert report.passes_per_prediction == 20
    assert found.forward_passes == (3 * 4 + 20) * found.attacked
    assert "more than half of 20 passes" in str(report)
    assert found.backward_passes == 3 * 4 * found.attacked


def test_noise_alone_breaks_next_to_nothing(noisy, digits):
    still = [PGD(epsilon=1e-6, steps=1)] * 10
    with pytest.warns(evaluation.ReliabilityWarning, match="random-outputs"):
        report = report_of(noisy, digits, *still, checks=True)
    # Seen: 7 points. Judged by one pass, the ten attacks break 31.
    assert report.clean_accuracy - report.robust_accuracy < 0.12
    assert [code for code, _ in report.findings] == ["random-outputs"]


def test_a_radius_of_zero_is_the_clean_accuracy(noisy, digits):
    report = evaluation.autoattack(noisy, digits, 0, **QUIET)
    assert report.robust_accuracy == report.clean_accuracy
    assert report.forward_passes == 0


def test_no_class_is_favoured_where_passes_are_divided():
    flatten = keras.layers.Flatten()
    zeros = keras.layers.Dense(2, kernel_initializer="zeros")
    tossed = with_function(lambda x: Noise(0.3)(zeros(flatten(x))))
    x = np.zeros((1000, 4, 4, 1), "float32")
    shares = [
        evaluation.autoattack(
            tossed, (x, np.full(1000, label)), 0, batch_size=1000, **QUIET
        ).clean_accuracy
        for label in (0, 1)
    ]
    # P(more than 10 of 20) is 0.412 for either; four standard deviations.
    assert shares == pytest.approx([0.412, 0.412], abs=0.064)


def test_the_rand_version_runs(noisy, digits):
    part = digits[0][:8], digits[1][:8]
    report = evaluation.autoattack(noisy, part, 0.2, version="rand", **QUIET)
    assert report.version == "rand"
    assert [a.name for a in report.attacks] == ["APGD-CE", "APGD-DLR"]
    assert report.robust_accuracy < report.clean_accuracy


@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("linf", 0.1), pytest.param("l2", 0.8, marks=pytest.mark.slow)],
)
def test_whole_list_in_both_norms(norm, epsilon, trained, digits):
    threat = {"norm": norm, "epsilon": epsilon}
    report = report_of(
        trained,
        (digits[0][:30], digits[1][:30]),
        APGD(steps=3, **threat),
        FAB(steps=3, target_classes=2, **threat),
        Square(queries=10, **threat),
        # The last batch has another size than the others.
        batch_size=20,
    )
    names = [attack.name for attack in report.attacks]
    assert names == ["APGD-CE", "FAB-T", "Square"]
    assert report.attacks[1].attacked > 0
    assert report.backward_passes > 0


def test_published_lists():
    standard = robustness.published("standard", "linf", 8 / 255, (0.0, 1.0))
    assert list(standard) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    settings = [attack.get_config() for attack in standard.values()]
    assert [s.get("steps") for s in settings] == [100, 100, 100, None]
    assert settings[3]["queries"] == 5000
    assert settings[1]["target_classes"] == settings[2]["target_classes"] == 9
    assert settings[0]["restarts"] == settings[1]["restarts"] == 1
    assert settings[0]["eot_samples"] == settings[1]["eot_samples"] == 1
    rand = robustness.published("rand", "l2", 0.5, (0.0, 1.0))
    assert list(rand) == ["APGD-CE", "APGD-DLR"]
    assert {attack.eot_samples for attack in rand.values()} == {20}
    assert {attack.norm for attack in rand.values()} == {"l2"}


def test_no_two_attacks_of_a_list_have_one_name():
    class Twin(PGD):
        name = "PGD-5 (2)"

    found = robustness.named([PGD(steps=5), Twin(), PGD(steps=5), FAB()])
    assert list(found) == ["PGD-5", "PGD-5 (2)", "PGD-5 (3)", "FAB-T"]


PAIR = [PGD(epsilon=0.1), PGD("l2", epsilon=0.1)]
RADII = [PGD(epsilon=0.1), PGD(epsilon=0.2)]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"version": "plus"}, ValueError, "one of 'standard', 'rand'"),
        ({"attacks": []}, ValueError, "at least one attack"),
        ({"attacks": PGD()}, TypeError, r"`attacks` must be a list.*PGD\("),
        ({"attacks": ["pgd"]}, TypeError, "`attacks` must be a list"),
        ({"attacks": PAIR}, ValueError, "same norm. Received: 'linf', 'l2'"),
        (
            {"attacks": RADII},
            ValueError,
            r"same epsilon. Received: 0.1, 0.2.*epsilon_sweep",
        ),
        (
            {"attacks": PAIR[:1], "epsilon": 0.2},
            ValueError,
            r"`epsilon` must be that of the attacks.*epsilon=0.2",
        ),
        ({"norm": "l1"}, ValueError, "`norm` must be one of 'linf', 'l2'"),
        ({"bounds": 3}, ValueError, "`bounds` must be two ascending numbers"),
        ({"bounds": (0, 1, 2)}, ValueError, "must be two ascending numbers"),
        ({"epsilon": [0.1]}, TypeError, r"`epsilon` must be .*\[0.1\]"),
        ({"epsilon": 8}, ValueError, "`epsilon` must be between 0 and 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"verbose": 3}, ValueError, "`verbose` must be one of 0, 1, 2"),
        ({"class_names": ["a"]}, ValueError, "3 classes. Received 1"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"state": 3}, TypeError, r"`state` must be a path.*state=3"),
        ({"classifier": len}, TypeError, r"must be a `keras.Model`"),
    ],
)
def test_refuses_bad_arguments(model, arguments, error, message):
    arguments = {"classifier": model, "data": data(model), **arguments}
    with pytest.raises(error, match=message):
        evaluation.autoattack(**arguments)


def test_refuses_what_is_no_attack(model):
    with pytest.raises(TypeError, match=r"`attack` must be an attack.*'pgd'"):
        evaluation.robust_accuracy(model, data(model), "pgd")


def test_data_that_an_attack_cannot_take_are_refused_at_once(tmp_path):
    flat = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).random((5, 16), np.float32)
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match="`Square` changes windows"):
        evaluation.autoattack(flat, (x, np.zeros(5, int)), state=path, **QUIET)
    assert not path.exists()


def test_progress_bar_shows_what_is_left(model, capsys):
    for verbose in (0, 1, 2):
        attack = PGD(epsilon=0.06, steps=2)
        report = evaluation.robust_accuracy(
            model, data(model), attack, verbose=verbose, checks=False
        )
        text = capsys.readouterr().out
        shown = f"robust accuracy after PGD-2: {report.robust_accuracy:.4f}"
        assert (shown in text) == bool(verbose)
        assert bool(text) == bool(verbose)

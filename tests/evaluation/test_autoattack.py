"""AutoAttack on networks: what must hold, and what must be seen through."""

import keras
import numpy as np
import pytest
from linear_case import data
from linear_case import linear_model
from linear_case import Noise
from linear_case import smallest_margins

import keras_wake as kw
from keras_wake import evaluation
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.evaluation import robustness

pytestmark = pytest.mark.usefixtures("all_eagerly")

EPSILON = 0.1


@pytest.fixture(scope="module")
def digits():
    splits = kw.datasets.load("digits", batch_size=50, test_limit=150)
    x, y = map(np.concatenate, zip(*splits.train, strict=True))
    x_test, y_test = map(np.concatenate, zip(*splits.test, strict=True))
    return (x[:400], y[:400]), (x_test, y_test)


@pytest.fixture(scope="module")
def trained(digits):
    """A small network, trained adversarially for a few epochs."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(48, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model = kw.WakeModel(classifier, PGD(epsilon=EPSILON, steps=3))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(*digits[0], epochs=12, batch_size=100, verbose=0)
    return classifier


# The kinds of the standard version, with few steps.
SHORT = [
    APGD(steps=10, epsilon=EPSILON),
    APGD(steps=10, epsilon=EPSILON, loss="dlr_targeted", target_classes=2),
    Square(queries=50, epsilon=EPSILON),
]
PGD_20 = PGD(epsilon=EPSILON, steps=20)
QUIET = {"verbose": 0, "checks": False}


@pytest.fixture(scope="module")
def honest(trained, digits):
    return evaluation.autoattack(trained, digits[1], attacks=SHORT, **QUIET)


def test_the_longer_the_list_the_lower_the_accuracy(trained, digits, honest):
    pgd = evaluation.robust_accuracy(trained, digits[1], PGD_20, **QUIET)
    assert all(attack.fell > 0 for attack in honest.attacks[:2])
    assert honest.clean_accuracy > 0.8 and honest.robust_accuracy > 0.2
    # Of 150 images one is 0.7 points.
    assert pgd.robust_accuracy >= honest.attacks[0].accuracy - 0.01
    assert pgd.robust_accuracy >= honest.robust_accuracy


def test_neither_order_nor_size_of_batches_matter(trained, digits):
    _, (x, y) = digits
    attacks = [
        PGD(epsilon=EPSILON, steps=3),
        APGD(steps=5, epsilon=EPSILON, restarts=2),
        Square(queries=20, epsilon=EPSILON),
    ]
    options = {"attacks": attacks, **QUIET}
    first = evaluation.autoattack(trained, (x, y), **options)
    order = np.random.default_rng(0).permutation(len(x))
    for batch_size in (128, 33):
        shuffled = (x[order], y[order])
        other = evaluation.autoattack(
            trained, shuffled, batch_size=batch_size, **options
        )
        np.testing.assert_array_equal(other.fallen_to, first.fallen_to[order])


def test_another_seed_draws_other_numbers(trained, digits):
    part = tuple(each[:40] for each in digits[1])
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
    inputs = keras.Input((8, 8, 1))
    # The same decisions, with logits so large that the cross-entropy has no
    # gradient left in float32.
    masked = keras.Model(inputs, 1e5 * trained(inputs))
    with pytest.warns(evaluation.ReliabilityWarning, match="zero-gradients"):
        flattered = evaluation.robust_accuracy(
            masked, digits[1], PGD_20, verbose=0
        )
    report = evaluation.autoattack(
        masked, digits[1], attacks=[PGD_20, *SHORT], **QUIET
    )
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
    report = evaluation.autoattack(
        model,
        (x, y),
        attacks=[
            APGD(epsilon=0.06, steps=20),
            APGD(epsilon=0.06, steps=20, loss="dlr_targeted"),
        ],
        **QUIET,
    )
    assert report.robust_accuracy == (margins > 0).mean()
    # The report says what takes the place of the loss that is not defined.
    assert report.attacks[1].note in str(report)


def test_l2_images_are_in_the_ball(trained, digits):
    _, (x, y) = digits
    report = evaluation.autoattack(
        trained,
        (x[:60], y[:60]),
        attacks=[APGD("l2", epsilon=0.8, steps=5)],
        return_images=True,
        **QUIET,
    )
    sizes = np.linalg.norm((report.images - x[:60]).reshape(60, -1), axis=1)
    assert report.norm == "l2" and report.robust_accuracy < 0.8
    assert sizes.max() <= 0.8 + 1e-6
    fell = report.fallen_to == 1
    logits = trained.predict(report.images[fell], verbose=0)
    assert (logits.argmax(axis=1) != y[:60][fell]).all()


@pytest.fixture
def noisy(trained):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, trained(Noise(0.3)(inputs)))


def test_averaging_over_passes_on_a_random_network(noisy, digits):
    _, (x, y) = digits
    attacks = [APGD(steps=2, epsilon=0.1, eot_samples=4)]
    report = evaluation.autoattack(noisy, (x, y), attacks=attacks, verbose=0)
    # It is what the check for random outputs advises.
    assert all(code != "random-outputs" for code, _ in report.findings)
    (found,) = report.attacks
    # The start, two steps, and the passes that judge.
    assert report.passes_per_prediction == 20
    assert found.forward_passes == (3 * 4 + 20) * found.attacked
    assert "more than half of 20 passes" in str(report)
    assert found.backward_passes == 3 * 4 * found.attacked


def test_noise_alone_breaks_next_to_nothing(noisy, digits):
    _, (x, y) = digits
    still = [PGD(epsilon=1e-6, steps=1) for _ in range(10)]
    with pytest.warns(evaluation.ReliabilityWarning, match="random-outputs"):
        report = evaluation.autoattack(noisy, (x, y), attacks=still, verbose=0)
    # Seen: 7 points. Judged by one pass, the ten attacks break 31.
    assert report.clean_accuracy - report.robust_accuracy < 0.12
    codes = [code for code, _ in report.findings]
    assert codes == ["random-outputs"]


def test_a_radius_of_zero_is_the_clean_accuracy(noisy, digits):
    _, (x, y) = digits
    report = evaluation.autoattack(noisy, (x, y), 0, checks=False, verbose=0)
    assert report.robust_accuracy == report.clean_accuracy
    assert report.forward_passes == 0


def test_no_class_is_favoured_where_passes_are_divided():
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    nothing = keras.layers.Dense(2, kernel_initializer="zeros")(flat)
    tossed = keras.Model(inputs, Noise(0.3)(nothing))
    x = np.zeros((1000, 8, 8, 1), "float32")
    shares = [
        evaluation.autoattack(
            tossed, (x, np.full(1000, label)), 0, batch_size=1000, **QUIET
        ).clean_accuracy
        for label in (0, 1)
    ]
    # P(more than 10 of 20) is 0.412 for either; four standard deviations.
    assert shares == pytest.approx([0.412, 0.412], abs=0.064)


def test_data_that_an_attack_cannot_take_are_refused_at_once(tmp_path):
    flat = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).random((5, 16), np.float32)
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match="`Square` changes windows"):
        evaluation.autoattack(flat, (x, np.zeros(5, int)), state=path, **QUIET)
    assert not path.exists()


def test_the_rand_version_runs(noisy, digits):
    _, (x, y) = digits
    report = evaluation.autoattack(
        noisy, (x[:8], y[:8]), epsilon=0.2, version="rand", **QUIET
    )
    assert report.version == "rand"
    assert [a.name for a in report.attacks] == ["APGD-CE", "APGD-DLR"]
    assert report.robust_accuracy < report.clean_accuracy


@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("linf", 0.1), pytest.param("l2", 0.8, marks=pytest.mark.slow)],
)
def test_whole_list_in_both_norms(norm, epsilon, trained, digits):
    _, (x, y) = digits
    threat = {"norm": norm, "epsilon": epsilon}
    report = evaluation.autoattack(
        trained,
        (x[:30], y[:30]),
        attacks=[
            APGD(steps=3, **threat),
            FAB(steps=3, target_classes=2, **threat),
            Square(queries=10, **threat),
        ],
        # The last batch has another size than the others.
        batch_size=20,
        **QUIET,
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

    attacks = [PGD(steps=5), Twin(), PGD(steps=5), FAB()]
    found = robustness.named(attacks)
    assert list(found) == ["PGD-5", "PGD-5 (2)", "PGD-5 (3)", "FAB-T"]


PAIR = [PGD(epsilon=0.1), PGD("l2", epsilon=0.1)]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            {"version": "plus"},
            ValueError,
            "one of 'standard', 'rand'",
        ),
        ({"attacks": []}, ValueError, "at least one attack"),
        ({"attacks": PGD()}, TypeError, r"`attacks` must be a list.*PGD\("),
        ({"attacks": ["pgd"]}, TypeError, "`attacks` must be a list"),
        ({"attacks": PAIR}, ValueError, "same norm. Received: 'linf', 'l2'"),
        (
            {"attacks": [PGD(epsilon=0.1), PGD(epsilon=0.2)]},
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
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    model = linear_model()
    with pytest.raises(error, match=message):
        evaluation.autoattack(model, data(model), **arguments)


def test_refuses_what_is_no_classifier_and_no_attack():
    model = linear_model()
    with pytest.raises(TypeError, match=r"must be a `keras.Model`"):
        evaluation.autoattack(lambda x: x, data(model))
    with pytest.raises(TypeError, match=r"`attack` must be an attack.*'pgd'"):
        evaluation.robust_accuracy(model, data(model), "pgd")


def test_progress_bar_shows_what_is_left(capsys):
    model = linear_model()
    attack = PGD(epsilon=0.06, steps=2)
    for verbose in (0, 1, 2):
        report = evaluation.robust_accuracy(
            model, data(model), attack, verbose=verbose, checks=False
        )
        text = capsys.readouterr().out
        shown = f"robust accuracy after PGD-2: {report.robust_accuracy:.4f}"
        assert (shown in text) == bool(verbose)
        assert bool(text) == bool(verbose)

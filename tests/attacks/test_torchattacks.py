"""Robust accuracy beside that of torchattacks, on the same weights."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

import keras_wake as kw
from keras_wake.attacks import APGD
from keras_wake.attacks import FAB
from keras_wake.attacks import Square

IMAGES = 500
EPSILON = {"linf": 0.2, "l2": 0.7}
# In points of per cent, of 500 images: five of them.
TOLERANCE = 1.0
# With one start, the random numbers alone make half a point, and a point for
# Square: means over so many seeds differ by that only once in a hundred times.
SEEDS = {"apgd": 3, "apgd-dlr": 8, "apgd-t": 3, "fab-t": 3, "square": 8}


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="the images are those of scikit-learn"
    )
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order] / 16).reshape(-1, 8, 8, 1).astype("float32")
    y = y[order].astype("int32")
    return (x[:-IMAGES], y[:-IMAGES]), (x[-IMAGES:], y[-IMAGES:])


@pytest.fixture(scope="module")
def robust_classifier(digits):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model = kw.WakeModel(classifier, kw.attacks.PGD("linf", 0.15, steps=5))
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(*digits[0], batch_size=64, epochs=15, verbose=0)
    return classifier


@pytest.fixture(scope="module")
def twin(robust_classifier):
    torch = pytest.importorskip("torch", reason="the twin is in PyTorch")

    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    weights = robust_classifier.get_weights()
    # Keras has the channels last, also where it flattens 2 x 2 of them.
    head = weights[4].reshape(2, 2, 32, 10).transpose(2, 0, 1, 3)
    weights[4] = head.reshape(128, 10)
    with torch.no_grad():
        for parameter, weight in zip(twin.parameters(), weights, strict=True):
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[weight.ndim]
            parameter.copy_(torch.tensor(weight.transpose(axes)))
    return twin.eval()


def _attack(attack, classifier, digits, seed):
    """Robust accuracy in per cent, of images that are inside."""
    x, y = digits[1]
    x_adv = to_numpy(attack(classifier, x, y, seed=seed))
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    size = to_numpy(attack.threat_model.size(x_adv.astype("float64") - x))
    assert size.max() <= attack.epsilon + 1e-6
    logits = to_numpy(classifier(x_adv))
    return 100 * np.mean(np.argmax(logits, axis=1) == y)


def _attack_twin(attack, twin, digits):
    torch = pytest.importorskip("torch")
    x, y = digits[1]
    x = torch.tensor(x.transpose(0, 3, 1, 2))
    y = torch.tensor(y, dtype=torch.int64)
    x_adv = attack(x, y)
    with torch.no_grad():
        return 100 * float((twin(x_adv).argmax(1) == y).float().mean())


CASES = {
    "apgd": (APGD, {}, "APGD", {}),
    "apgd-dlr": (APGD, {"loss": "dlr"}, "APGD", {"loss": "dlr"}),
    "apgd-t": (APGD, {"loss": "dlr_targeted"}, "APGDT", {}),
    "fab-t": (FAB, {}, "FAB", {"multi_targeted": True}),
    "square": (Square, {}, None, {}),
}


def _theirs(name, twin, norm, seed):
    """The attack of torchattacks; Square with windows in all places.

    Theirs draws the first row from 0 to height − side − 1, so that no window
    ever covers the last row and column. The paper has 0 to height − side. Of
    32 rows that is one, of eight an eighth, which for ℓ2 makes nine points.
    """
    torchattacks = pytest.importorskip(
        "torchattacks", reason="the other implementation"
    )
    _, _, kind, settings = CASES[name]
    where = {"norm": norm.capitalize(), "eps": EPSILON[norm], "seed": seed}
    if name != "square":
        kind = getattr(torchattacks, kind)
        return kind(twin, steps=100, **settings, **where)

    class WholeSquare(torchattacks.Square):
        def random_int(self, low=0, high=1, shape=(1,)):
            return super().random_int(low, high + 1, shape)

    attack = WholeSquare(twin, n_queries=5000, **where)
    # As the standard AutoAttack runs it.
    attack.rescale_schedule = False
    return attack


QUICK = (("apgd", "linf"), ("apgd", "l2"))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in ((name, norm) for name in CASES for norm in EPSILON)
    ],
)
def test_robust_accuracy_is_that_of_torchattacks(
    robust_classifier, twin, digits, name, norm
):
    kind, settings, *_ = CASES[name]
    attack = kind(norm, EPSILON[norm], **settings)
    expected, found = [], []
    for seed in range(SEEDS[name]):
        other = _theirs(name, twin, norm, seed)
        expected.append(_attack_twin(other, twin, digits))
        found.append(_attack(attack, robust_classifier, digits, seed))
    # Otherwise there would be nothing to compare.
    assert 10 < np.mean(expected) < 90
    assert abs(np.mean(found) - np.mean(expected)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("norm", EPSILON)
def test_ensemble_is_that_of_torchattacks(
    robust_classifier, twin, digits, norm
):
    torchattacks = pytest.importorskip(
        "torchattacks", reason="the other implementation"
    )
    # Its `AutoAttack` takes 10 steps where 100 are published.
    standard = ("apgd", "apgd-t", "fab-t", "square")
    other = torchattacks.MultiAttack(
        [_theirs(name, twin, norm, seed=0) for name in standard]
    )
    expected = _attack_twin(other, twin, digits)
    report = kw.evaluation.autoattack(
        robust_classifier,
        digits[1],
        epsilon=EPSILON[norm],
        norm=norm,
        verbose=0,
    )
    assert 10 < expected < 90
    # Three of 500 images.
    assert abs(100 * report.robust_accuracy - expected) <= 0.6

"""The class report against NumPy, sample by sample."""

import itertools
import json
import tracemalloc

import keras
import numpy as np
import pytest

from keras_wake import attribution
from keras_wake.attacks import PGD
from keras_wake.attacks.attack import Attack
from keras_wake.attribution import _examples
from keras_wake.attribution import report as report_module

CLASSES, FEATURES = 4, 6
ATTACK = PGD(epsilon=0.15, steps=3, random_start=False)


def make_network(classes=CLASSES, features=FEATURES):
    """A layer of features, a head; random, but all classes are predicted."""
    model = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(features, activation="relu", name="features"),
            keras.layers.Dense(classes, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    first = rng.normal(size=(9, features))
    second = rng.normal(size=(features, classes))
    # Centred at random images, for which no class is ahead then.
    bias = -0.5 * first.sum(axis=0)
    mean = np.maximum(rng.random((1000, 9)) @ first + bias, 0).mean(axis=0)
    model.set_weights([first, bias, second, -mean @ second])
    return model


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    x = rng.random((41, 3, 3, 1)).astype("float32")
    return x, rng.integers(0, CLASSES, 41).astype("int32")


def logits_of(network, x):
    """In NumPy, float64."""
    first, bias, second, shift = map(np.float64, network.get_weights())
    features = np.maximum(x.reshape(len(x), -1) @ first + bias, 0)
    return features @ second + shift


def predicted(network, x):
    return logits_of(network, x).argmax(axis=1)


def confusion_of(y, predictions):
    cells = np.bincount(CLASSES * y + predictions, minlength=CLASSES**2)
    return cells.reshape(CLASSES, CLASSES)


def attacked(network, x, y):
    return keras.ops.convert_to_numpy(ATTACK(network, x, y))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("batch_size", [7, 100])
def test_numbers_equal_numpy(network, data, batch_size):
    x, y = data
    report = attribution.class_report(
        network, data, ATTACK, batch_size=batch_size
    )
    clean = predicted(network, x)
    robust = predicted(network, attacked(network, x, y))
    # The attack does something, or the two could be mixed up.
    assert (robust != clean).sum() > 3
    counts = np.bincount(y)
    for found, expected in (
        (report.confusion, confusion_of(y, robust)),
        (report.counts, counts),
        (report.clean_accuracy, np.bincount(y[clean == y]) / counts),
        (report.robust_accuracy, np.bincount(y[robust == y]) / counts),
    ):
        np.testing.assert_array_equal(found, expected)
    assert report.overall_clean_accuracy == pytest.approx((clean == y).mean())
    assert report.overall_robust_accuracy == pytest.approx((robust == y).mean())
    matrix = attribution.correlation_matrix(network, data, ATTACK)
    # Float32 features, whose batches may round differently.
    np.testing.assert_allclose(report.correlation, matrix, atol=1e-5)
    assert report.cas == pytest.approx(attribution.cas(matrix), abs=1e-4)
    assert report.attack == repr(ATTACK)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("batch_size", [7, 100])
def test_pairs_are_sorted_with_the_images_in_which_it_shows(
    network, data, batch_size
):
    x, y = data
    # Two pairs are not confused in any image then.
    robust = predicted(network, attacked(network, x, y))
    kept = ~((y == 0) & (robust == 1)) & ~((y == 2) & (robust == 3))
    data = x, y = x[kept], y[kept]
    report = attribution.class_report(
        network, data, ATTACK, pairs=100, examples=2, batch_size=batch_size
    )
    cosines = [pair.cosine for pair in report.pairs]
    assert cosines == sorted(cosines, reverse=True)
    # Each of the six pairs of four classes, once.
    pairs = {pair.classes for pair in report.pairs}
    assert len(report.pairs) == len(pairs) == 6
    adversarial = attacked(network, x, y)
    logits = logits_of(network, adversarial)
    full = near = 0
    for pair in report.pairs:
        i, j = pair.classes
        assert i < j and pair.cosine == report.correlation[i, j]
        for (true, other), count, examples in zip(
            ((i, j), (j, i)), pair.confusions, pair.examples, strict=True
        ):
            places = np.flatnonzero(
                (y == true) & (logits.argmax(axis=1) == other)
            )
            assert count == len(places)
            if not count:
                gaps = logits.max(axis=1) - logits[:, other]
                members = np.flatnonzero(y == true)
                places = members[np.argsort(gaps[members], kind="stable")]
                found = [example.gap for example in examples]
                # Float32 against float64.
                np.testing.assert_allclose(found, gaps[places[:2]], atol=1e-5)
            assert [e.index for e in examples] == places[:2].tolist()
            assert all(e.nearest == (count == 0) for e in examples)
            full += count > 2
            near += count == 0
            for example in examples:
                np.testing.assert_array_equal(example.image, x[example.index])
                # The attack on a batch of another size rounds differently.
                np.testing.assert_allclose(
                    example.adversarial, adversarial[example.index], atol=1e-6
                )
                # A view would keep the whole batch in memory.
                assert example.image.base is None
                assert example.adversarial.base is None
    assert full and near


@pytest.mark.usefixtures("eagerly")
def test_fewer_pairs_are_the_first_of_all(network, data):
    every = attribution.class_report(network, data, ATTACK, pairs=100).pairs
    some = attribution.class_report(network, data, ATTACK, pairs=2, examples=0)
    assert [p.classes for p in some.pairs] == [p.classes for p in every[:2]]
    assert all(pair.examples == ([], []) for pair in some.pairs)
    assert attribution.class_report(network, data, pairs=0).pairs == []


class Counting(Attack):
    """Changes nothing, and counts the images."""

    def __call__(self, classifier, x, y, seed=None):
        self._seen = getattr(self, "_seen", 0) + len(x)
        return x


def test_reads_and_attacks_the_data_once(network, data):
    x, y = data
    batches = ((x[i : i + 8], y[i : i + 8]) for i in range(0, 41, 8))
    attack = Counting()
    report = attribution.class_report(network, batches, attack)
    assert attack._seen == report.counts.sum() == 41


def test_clean_images(network, data):
    x, y = data
    report = attribution.class_report(network, data)
    expected = confusion_of(y, predicted(network, x))
    np.testing.assert_array_equal(report.confusion, expected)
    assert report.robust_accuracy is None
    assert report.overall_robust_accuracy is None and report.attack is None
    expected = attribution.correlation_matrix(network, data)
    np.testing.assert_allclose(report.correlation, expected, atol=1e-5)
    found = report.to_dict()
    assert found["robust_accuracy"] is None
    assert found["classes"][0]["robust_accuracy"] is None
    assert "clean images" in str(report)


@pytest.mark.usefixtures("eagerly")
def test_a_class_without_samples_is_nan_and_null(network, data):
    x, y = data
    kept = y != 2
    with pytest.warns(UserWarning, match="1 of 4 classes") as seen:
        report = attribution.class_report(
            network, (x[kept], y[kept]), ATTACK, ["a", "b", "c", "d"]
        )
    # One warning, not one of the matrix and one of CAS.
    assert len([w for w in seen if w.category is UserWarning]) == 1
    assert report.counts[2] == 0
    assert np.isnan(report.clean_accuracy[2])
    assert np.isnan(report.robust_accuracy[2])
    assert report.overall_clean_accuracy == pytest.approx(
        (predicted(network, x[kept]) == y[kept]).mean()
    )
    assert all(2 not in pair.classes for pair in report.pairs)
    found = json.loads(report.to_json())
    assert list(found["classes"][2].values()) == ["c", 0, None, None]
    assert found["correlation"][2] == [None] * 4
    assert found["cas"] == pytest.approx(report.cas)
    # Three classes have six pairs with a value.
    assert f"CAS {report.cas:.1f} of 6 (1 of 4 classes left out)" in str(report)
    line = next(s for s in str(report).splitlines() if s.startswith("c "))
    assert line.split() == ["c", "0", "-", "-", "-"]


@pytest.mark.usefixtures("eagerly")
def test_json_holds_the_numbers(network, data):
    report = attribution.class_report(network, data, ATTACK)
    found = json.loads(report.to_json(indent=1))
    assert found == report.to_dict()
    assert found["samples"] == 41
    assert found["confusion"] == report.confusion.tolist()
    assert found["correlation"] == report.correlation.tolist()
    accuracies = found["classes"][2]
    assert accuracies == {
        "name": "2",
        "samples": report.counts[2],
        "clean_accuracy": report.clean_accuracy[2],
        "robust_accuracy": report.robust_accuracy[2],
    }
    pair = report.pairs[0]
    assert found["pairs"][0] == {
        "classes": list(pair.classes),
        "names": [str(i) for i in pair.classes],
        "cosine": pair.cosine,
        "confusions": list(pair.confusions),
        "examples": [[e.index for e in part] for part in pair.examples],
    }


@pytest.mark.usefixtures("eagerly")
def test_text_tells_what_was_found(network, data):
    names = ["ant", "bee", "cat", "a name of more than twenty letters"]
    report = attribution.class_report(network, data, ATTACK, names)
    lines = str(report).splitlines()
    assert lines[0].startswith("41 samples of 4 classes, PGD(")
    assert f"CAS {report.cas:.1f} of 12" in lines[1]
    row = next(line for line in lines if line.startswith("ant "))
    others = report.confusion[0].copy()
    others[0] = 0
    share = 100 * others.max() / report.counts[0]
    name = names[others.argmax()][:3]
    assert row.split()[:2] == ["ant", str(report.counts[0])]
    assert f"{100 * report.robust_accuracy[0]:.1f} %" in row
    assert name in row and f"({share:.1f} %)" in row
    assert "a name of …y letters" in str(report)
    pair = report.pairs[0]
    first = lines[lines.index("the pairs that share most features") + 2]
    assert first.split()[0] == f"{pair.cosine:.2f}"
    assert f"{pair.confusions[0]} of {report.counts[pair.classes[0]]}" in first
    assert repr(report).startswith("<ClassReport of 41 samples, 4 classes")


def test_text_of_many_classes_is_short():
    x = np.random.default_rng(0).random((300, 3, 3, 1)).astype("float32")
    y = np.arange(300, dtype="int32") % 60
    text = str(attribution.class_report(make_network(60, 20), (x, y)))
    assert "the 25 of 60 classes with the lowest clean accuracy" in text
    assert len(text.splitlines()) < 50


# 12 classes: up to 132 ordered pairs, of which 20 or 12 are to be kept.
@pytest.mark.parametrize(("confused", "most"), [(True, 20), (False, 12)])
def test_images_are_kept_for_a_bounded_number_of_pairs(
    monkeypatch, confused, most
):
    monkeypatch.setattr(report_module, "MOST_CANDIDATES", most)
    pairs, images, copied = [], [], []
    add, example = _examples.Candidates.add, _examples.Example

    def spy(self, *args):
        copied.append(0)
        add(self, *args)
        pairs.append(len(self.kept))
        images.append(sum(map(len, self.kept.values())))

    def count(*args):
        copied[-1] += 1
        return example(*args)

    monkeypatch.setattr(_examples.Candidates, "add", spy)
    monkeypatch.setattr(_examples, "Example", count)
    network = make_network(12, 8)
    x = np.random.default_rng(2).random((600, 3, 3, 1)).astype("float32")
    predictions = predicted(network, x)
    y = np.arange(600) % 12 if confused else predictions
    report = attribution.class_report(
        network, (x, y.astype("int32")), pairs=2, examples=3
    )
    if confused:
        assert (report.confusion > 0).sum() - 12 > 60
    else:
        assert np.trace(report.confusion) == 600
        assert max(images) == 3 * most
    assert max(pairs) == most and max(copied) <= 3 * most
    # What is kept in the end are pairs of large cosine: both have examples,
    # of a confusion wherever there is one.
    for pair in report.pairs:
        for (i, j), examples, count in zip(
            (pair.classes, pair.classes[::-1]),
            pair.examples,
            pair.confusions,
            strict=True,
        ):
            assert len(examples) == min(count or 3, 3)
            for example in examples:
                assert y[example.index] == i
                assert (predictions[example.index] == j) == (count > 0)
                assert example.nearest == (count == 0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"class_names": ["a"]}, ValueError, r"4 classes.*Received 1.*\['a'\]"),
        (
            {"class_names": "abcd"},
            ValueError,
            "a list with one name for each of the 4 classes.*'abcd'",
        ),
        ({"pairs": -1}, ValueError, "`pairs` must be at least 0"),
        ({"examples": 1.5}, TypeError, "`examples` must be an integer"),
        ({"attack": "pgd"}, TypeError, "`attack` must be an attack"),
    ],
)
def test_refuses_bad_arguments(network, data, arguments, error, message):
    with pytest.raises(error, match=message):
        attribution.class_report(network, data, **arguments)


def test_memory_of_many_classes_is_a_few_matrices():
    classes, features = 1500, 3
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(classes)]
    )
    rng = np.random.default_rng(0)
    x = rng.random((48, 4), np.float32)
    y = rng.integers(0, classes, 48).astype("int32")
    missing = "of 1500 classes"
    with pytest.warns(UserWarning, match=missing):
        attribution.class_report(network, (x[:2], y[:2]))
    tracemalloc.start()
    with pytest.warns(UserWarning, match=missing):
        report = attribution.class_report(network, (x, y), batch_size=16)
    text = str(report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "1500 classes" in text
    # Confusion, correlation and what is of the order of K (n + batch).
    matrix = 8 * classes**2
    assert peak < 2.3 * matrix + 200 * classes * (features + 16)


def test_of_equal_cosines_the_first_pairs_are_reported():
    matrix = np.random.default_rng(0).integers(-3, 4, (40, 40)) / 4
    matrix[7] = matrix[:, 7] = np.nan
    pairs = itertools.combinations([i for i in range(40) if i != 7], 2)
    expected = sorted(pairs, key=lambda pair: -matrix[pair])
    for count in (0, 1, 30, 10_000):
        assert report_module._largest_pairs(matrix, count) == expected[:count]


def test_logits_of_nan_are_refused(network, data):
    network.set_weights([w * np.nan for w in network.get_weights()])
    with pytest.raises(ValueError, match="returns NaN for 41 of 41 images"):
        attribution.class_report(network, data)

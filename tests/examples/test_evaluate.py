"""The script that evaluates a trained network."""

import json

import keras
import pytest

import keras_wake as kw

LIMIT = 20
EPSILON = 0.05


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network for digits that gets some of them right, and its file."""
    keras.utils.set_random_seed(0)
    made = kw.models.SmallCNN(10, (8, 8, 1), widths=(8, 8), strides=(1, 2))
    model = kw.WakeModel(made, kw.attacks.FGSM(epsilon=EPSILON))
    model.compile(keras.optimizers.Adam(1e-2))
    data = kw.datasets.load("digits", limit=640, validation_split=0)
    model.fit(data.train, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("network") / "network.keras"
    made.save(path)
    return made, path


@pytest.fixture
def start(examples, network, eagerly, tmp_path):
    """Runs the script; returns what it has written."""

    def run(*flags):
        examples.evaluate.main(
            [
                *(f"--network={network[1]}", "--dataset=digits"),
                *(f"--test-limit={LIMIT}", f"--epsilon={EPSILON}"),
                *(f"--out={tmp_path / 'out'}", *flags),
            ]
        )
        return json.loads((tmp_path / "out" / "report.json").read_text())

    return run


@pytest.mark.slow
def test_pgd_alone(start, network, tmp_path, capsys):
    written = start("--attack=pgd", "--steps=5")
    data = kw.datasets.load("digits", validation_split=0, test_limit=LIMIT)
    expected = kw.evaluation.robust_accuracy(
        network[0],
        data.arrays("test"),
        kw.attacks.PGD("linf", EPSILON, steps=5),
        verbose=0,
    )
    assert 0 < expected.robust_accuracy < expected.clean_accuracy
    assert written["robust_accuracy"] == expected.robust_accuracy
    assert written["clean_accuracy"] == expected.clean_accuracy
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"report.json", "robustness.png", "state.npz"}
    assert "PGD-5" in capsys.readouterr().out


def test_version_of_autoattack_goes_on(start, network, monkeypatch):
    called = {}

    def autoattack(classifier, data, **options):
        called.update(options)
        attack = kw.attacks.PGD(options["norm"], options["epsilon"], steps=2)
        return kw.evaluation.robust_accuracy(
            classifier, data, attack, verbose=0
        )

    monkeypatch.setattr(kw.evaluation, "autoattack", autoattack)
    start("--attack=rand", "--norm=l2", "--seed=3")
    assert called["version"] == "rand" and called["norm"] == "l2"
    assert called["epsilon"] == EPSILON and called["seed"] == 3
    assert called["state"].name == "state.npz"
    assert list(called["class_names"]) == [str(i) for i in range(10)]


def test_refuses_another_state_and_a_missing_network(start, examples, capsys):
    start("--attack=pgd", "--steps=2")
    with pytest.raises(SystemExit):
        start("--attack=pgd", "--steps=3")
    assert "steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        examples.evaluate.main(["--network=none.keras"])
    assert "there is no file none.keras." in capsys.readouterr().err

"""The script that analyses a trained network, also one of PyTorch."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from run_files import save_images

import keras_wake as kw

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "models"))

import torch_twins

LIMIT = 60


@pytest.fixture
def network(tmp_path):
    """A network for digits, barely trained, and its file."""
    keras.utils.set_random_seed(0)
    made = kw.models.SmallCNN(10, (8, 8, 1), (4, 4, 4), (1, 2, 1))
    path = tmp_path / "network.keras"
    made.save(path)
    return made, path


@pytest.mark.parametrize(
    ("mode", "flags", "attack"),
    [
        ("instance", ["--attack=none"], None),
        (
            "class",
            ["--norm=l2", "--steps=2"],
            kw.attacks.PGD("l2", 0.75, step_size=0.75 / 8, steps=2),
        ),
    ],
)
def test_network_of_keras(
    examples, network, eagerly, tmp_path, capsys, mode, flags, attack
):
    made, path = network
    out = tmp_path / "out"
    examples.analyse.main(
        [
            *(f"--network={path}", "--dataset=digits", f"--mode={mode}"),
            *(f"--test-limit={LIMIT}", f"--out={out}", *flags),
        ]
    )
    data = kw.datasets.load("digits", validation_split=0, test_limit=LIMIT)
    x, y = data.arrays("test")
    expected = kw.attribution.correlation_matrix(
        made, (x, y), attack, mode=mode, seed=0
    )
    written = json.loads((out / "report.json").read_text())
    assert written["attack"] == (None if attack is None else repr(attack))
    robust, clean = written["robust_accuracy"], written["clean_accuracy"]
    assert robust is None if attack is None else robust <= clean
    np.testing.assert_allclose(written["mode_matrix"], expected, atol=1e-4)
    cas = kw.attribution.cas(expected)
    assert written["mode_cas"] == pytest.approx(cas, abs=1e-2)
    right = np.mean(np.argmax(made.predict(x, verbose=0), axis=1) == y)
    assert clean == pytest.approx(right)
    printed = capsys.readouterr().out
    assert f"CAS of the {mode}-wise matrix: {cas:.1f}" in printed
    assert "the pairs that share most features" in printed
    # Examples of the pairs are drawn where there are any.
    some = any(any(pair["examples"]) for pair in written["pairs"][:5])
    files = {"matrix.png", "classes.png", "report.json"}
    files |= {"shared_pairs.png"} if some else set()
    assert {path.name for path in out.iterdir()} == files


@pytest.fixture
def folder(tmp_path):
    """Images of three classes, 16 x 16."""
    save_images(tmp_path / "data", 3, 16, train=2, test=4)
    return tmp_path / "data"


def test_state_dict_of_pytorch(examples, folder, tmp_path):
    torch = torch_twins.import_torch()
    torch.manual_seed(3)
    twin = torch_twins.with_random_statistics(
        torch_twins.preact_resnet18(4, 3, shortcut="raw")
    )
    torch.save({"state_dict": twin.state_dict()}, tmp_path / "best.pth")
    images = torch_twins.varied_images(4, 16, 16, 3)
    np.savez(
        tmp_path / "reference.npz",
        images=images,
        logits=torch_twins.logits_in_float64(twin, images),
    )
    examples.analyse.main(
        [
            *(f"--pytorch={tmp_path / 'best.pth'}", "--dataset=folder"),
            *(f"--data-dir={folder}", "--attack=none", "--raw-shortcut"),
            f"--reference={tmp_path / 'reference.npz'}",
            *("--width=4", f"--out={tmp_path / 'out'}"),
        ]
    )
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    splits = kw.datasets.load("folder", data_dir=folder, validation_split=0)
    x, y = splits.arrays("test")
    logits = torch_twins.logits_in_float64(twin, x)
    right = np.mean(np.argmax(logits, axis=1) == y)
    assert written["clean_accuracy"] == pytest.approx(right)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (y, np.argmax(logits, axis=1)), 1)
    assert written["confusion"] == confusion.tolist()
    assert (tmp_path / "out" / "shared_pairs.png").exists()


def test_refuses(examples, network, folder, tmp_path, capsys):
    made, path = network
    (tmp_path / "broken.keras").write_text("no zip")
    model = kw.WakeModel(made, kw.attacks.PGD())
    model.compile("sgd")
    model.save(tmp_path / "wake.keras")
    digits = "--dataset=digits"
    for message, *arguments in (
        ("one of the arguments --network --pytorch is required",),
        ("there is no file none.keras.", "--network=none.keras"),
        (
            "cannot be read as a network",
            *(f"--network={tmp_path / 'broken.keras'}", digits),
        ),
        (
            "holds a whole WakeModel",
            *(f"--network={tmp_path / 'wake.keras'}", digits),
        ),
        (
            "--network does not fit the data: the network takes images",
            *(f"--network={path}", "--dataset=folder", f"--data-dir={folder}"),
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            examples.analyse.main([*arguments, f"--out={tmp_path / 'out'}"])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

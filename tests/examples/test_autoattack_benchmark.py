"""The benchmark of AutoAttack: its networks, and a tiny run of both sides."""

import json

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

SETTINGS = {"attack": "apgd-ce", "data": "digits", "norm": "linf", "seed": 0}


@pytest.fixture(scope="module")
def networks(load):
    pytest.importorskip("torch", reason="the twin is in PyTorch")
    return load("_autoattack_network")


def _network(networks, data):
    """A network whose statistics and weights are all different."""
    keras.utils.set_random_seed(0)
    network = networks.keras_network(data)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        low = 0.05 if normalises else -0.05
        layer.set_weights(
            [w + rng.uniform(low, 0.1, w.shape) for w in layer.get_weights()]
        )
    return network


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_the_twin_computes_the_same(networks, data):
    import torch

    network = _network(networks, data)
    x = np.random.default_rng(1).random((3, *network.input_shape[1:]))
    x = x.astype("float32")
    twin = networks.torch_network(data, network.get_weights())
    with torch.no_grad():
        found = twin(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    expected = to_numpy(network(x))
    scale = np.abs(expected).max()
    # Float32, through up to six layers.
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    assert np.std(expected, axis=0).min() > 1e-3 * scale


@pytest.fixture
def task(networks, tmp_path):
    """A file as the benchmark keeps it, with labels that are right."""
    network = _network(networks, "digits")
    x = np.random.default_rng(1).random((6, 8, 8, 1)).astype("float32")
    # Around their mean, so that there are several classes.
    logits = to_numpy(network(x))
    logits, mean = logits - logits.mean(axis=0), logits.mean(axis=0)
    weights = network.get_weights()
    weights[-1] = weights[-1] - mean
    kept = {f"weight_{n}": w for n, w in enumerate(weights)}
    y = logits.argmax(axis=1)
    np.savez(tmp_path / "task.npz", x=x, y=y, logits=logits, **kept)
    return tmp_path / "task.npz"


def test_both_sides_attack_the_same_images(load, task, capsys):
    pytest.importorskip("torchattacks", reason="the other side")
    benchmark = load("autoattack")
    found = {}
    for contender in benchmark.CONTENDERS:
        benchmark.run(contender, str(task), samples=5, **SETTINGS)
        found[contender] = json.loads(capsys.readouterr().out.splitlines()[-1])
    for record in found.values():
        assert record["seconds"] > 0 and record["clean_accuracy"] == 1
    # One of five images at most, as each has random numbers of its own.
    ours, theirs = (record["robust_accuracy"] for record in found.values())
    assert abs(ours - theirs) <= 0.2 + 1e-6


def test_refuses_a_twin_that_computes_something_else(load, task):
    pytest.importorskip("torchattacks", reason="the other side")
    with np.load(task) as file:
        kept = dict(file)
    kept["logits"] = kept["logits"] + 0.01
    np.savez(task, **kept)
    with pytest.raises(SystemExit, match=r"logits differ by 0\.0"):
        load("autoattack").run("torchattacks", str(task), 5, **SETTINGS)

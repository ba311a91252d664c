"""`ModelParallel` on JAX: the same numbers as on one device."""

import json

import keras
import numpy as np
import pytest
from launching import assert_same
from launching import finish
from launching import start

pytest.importorskip("jax")
# A process of JAX for each mesh; CI runs the first test.
pytestmark = pytest.mark.slow

# The sums over the parts of a layer are taken in another order; seen: 2e-7.
TOLERANCE = 1e-5


def run(folder, mesh, *step):
    """What a run found; with a step, at which it ends itself, None."""
    folder.mkdir(exist_ok=True)
    path = folder / "results.json"
    ((status, output),) = finish(
        start("sharded_run.py", path, folder, mesh, *step)
    )
    if step:
        assert status == -9, output[-3000:]
        return None
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one") / "run", "1")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four") / "run"
    return run(folder, "2x2"), folder


def check_same(one, divided):
    assert_same(one, divided, TOLERANCE)
    for key in ("loaded", "logits"):
        for a, b in zip(one[key], divided[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
    assert divided["robust_accuracy"] == one["robust_accuracy"]
    # Both kernels and one of the biases are divided; one bias of 3 is not.
    divided_in_two = [(54, 27), (6, 3), (72, 36), (3, 3)]
    for owner in ("student", "teacher", "momentum", "copy"):
        found = map(tuple, divided[f"{owner}_parts"])
        assert list(found) == divided_in_two, owner


def test_four_devices_train_as_one(one, four):
    check_same(one, four[0])
    assert np.ptp(one["history"]["loss"]) > 0.01


def test_two_devices_train_as_one(one, tmp_path):
    check_same(one, run(tmp_path / "run", "1x2"))


def test_a_killed_run_resumes(four, tmp_path):
    undisturbed, _ = four
    # In the third of four epochs.
    run(tmp_path / "run", "2x2", 10)
    # The same program on the same devices.
    assert_same(undisturbed, run(tmp_path / "run", "2x2"), 0)


def test_one_device_reads_the_files(four):
    divided, folder = four
    network = keras.models.load_model(folder / "robust.keras")
    for mine, theirs in zip(network.weights, divided["loaded"], strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(mine), np.float32(theirs)
        )

"""Two worker processes and two replicas of one process: the same numbers."""

import csv
import json
import shutil
import time

import keras
import numpy as np
import pytest
from launching import finish
from launching import free_addresses
from launching import start

# Seen: about ten seconds, in which a worker notices that another is gone.
NOTICED_WITHIN = 120


def run_workers(folder, die=None, folders=None, more=False):
    """Runs both workers; `die` is (worker, step)."""
    addresses = free_addresses(2)
    workers = []
    for index in range(2):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        option = ["more"] if more else []
        if die and die[0] == index:
            option = [die[1]]
        workers.append(
            start(
                "worker_run.py",
                folder / f"results_{index}.json",
                folders[index] if folders else folder,
                *option,
                TF_CONFIG=json.dumps(config),
                # Each worker has the CPU as its one device.
                CUDA_VISIBLE_DEVICES="",
            )
        )
    return workers


def results_of(folder):
    return [
        json.loads((folder / f"results_{index}.json").read_text())
        for index in range(2)
    ]


# Three processes for what seldom breaks; CI runs the first two.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a job that ran undisturbed."""
    path = tmp_path_factory.mktemp("workers")
    for status, output in finish(*run_workers(path)):
        assert status == 0, output[-3000:]
    return path


def assert_same(one, two, tolerance=0.0):
    for key in ("history", "evaluated"):
        assert set(one[key]) == set(two[key])
        for name, values in one[key].items():
            np.testing.assert_allclose(
                values, two[key][name], rtol=0, atol=tolerance, err_msg=name
            )
    for key in ("student", "teacher"):
        for a, b in zip(one[key], two[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        one["correlation"], two["correlation"], rtol=0, atol=tolerance
    )
    assert (one["steps"], one["updates"]) == (two["steps"], two["updates"])


def test_two_workers_train_as_two_replicas(folder, results_of_replicas):
    chief, other = results_of(folder)
    assert chief["is_chief"] and not other["is_chief"]
    assert_same(chief, other)
    expected = results_of_replicas
    # Sums over two numbers do not depend on the order; seen: no difference.
    assert_same({**expected, "evaluated": chief["evaluated"]}, chief, 1e-6)
    for key, value in chief["evaluated"].items():
        last = chief["history"][f"val_{key}"][-1]
        assert value == pytest.approx(last, abs=1e-6)


@pytest.fixture(scope="module")
def more_results(tmp_path_factory):
    """What both workers found in the cases that take longer."""
    path = tmp_path_factory.mktemp("more")
    for status, output in finish(*run_workers(path, more=True)):
        assert status == 0, output[-3000:]
    return results_of(path)


def test_a_pipeline_is_divided_among_workers(
    more_results, more_replica_results
):
    expected = {**more_replica_results["pipeline_2"], "evaluated": {}}
    for worker in more_results:
        assert_same(expected, {**worker["pipeline"], "evaluated": {}}, 1e-6)


def test_workers_decide_alike_with_batch_norm_of_their_own(more_results):
    chief, other = (results["own_norm"] for results in more_results)
    norms = [
        np.concatenate([np.ravel(w) for w in found["student"]])
        for found in (chief, other)
    ]
    # Else there was nothing to disagree in.
    assert np.abs(norms[0] - norms[1]).max() > 1e-3
    assert chief["checks"] and chief["checks"] == other["checks"]
    assert chief["history"]["val_cas"] == other["history"]["val_cas"]


def test_only_the_chief_writes(folder):
    chief, other = results_of(folder)
    assert (chief["backups"], other["backups"]) == (4, 0)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "backup.npz",
        "best.keras",
        "log.csv",
        "results_0.json",
        "results_1.json",
        *(
            f"{name}_epoch_{epoch:04d}.npy"
            for name in ("correlation", "teacher_correlation")
            for epoch in range(1, 5)
        ),
    }
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    loaded = keras.models.load_model(folder / "best.keras")
    history = results_of(folder)[0]["history"]
    best = int(np.argmax(history["val_robust_accuracy"])) + 1
    # Four batches an epoch.
    assert int(loaded.train_steps.numpy()) == 4 * best


def test_backups_of_different_epochs_are_refused(folder, tmp_path):
    shutil.copytree(folder / "backup", tmp_path / "chief" / "backup")
    folders = [tmp_path / "chief", tmp_path / "other"]
    for status, output in finish(*run_workers(tmp_path, folders=folders)):
        assert status != 0
        assert "backups after the epochs [4, 0]" in output, output[-3000:]


@pytest.mark.parametrize("dead", [1, 0], ids=["worker", "chief"])
def test_a_dead_worker_ends_the_job_which_resumes(folder, tmp_path, dead):
    # In the third of four epochs.
    workers = run_workers(tmp_path, die=(dead, 10))
    victim, survivor = workers[dead], workers[1 - dead]
    victim.wait(timeout=300)
    died = time.monotonic()
    (status, _), (other_status, output) = finish(
        victim, survivor, timeout=NOTICED_WITHIN
    )
    assert status == -9
    assert other_status != 0, output[-3000:]
    assert time.monotonic() - died < NOTICED_WITHIN
    # The same command again.
    for status, output in finish(*run_workers(tmp_path)):
        assert status == 0, output[-3000:]
    for undisturbed, resumed in zip(
        results_of(folder), results_of(tmp_path), strict=True
    ):
        assert_same(undisturbed, resumed)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]

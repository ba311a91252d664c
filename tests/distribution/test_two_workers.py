"""Two worker processes and two replicas of one process: the same numbers."""

import csv
import json
import shutil
import time

import keras
import numpy as np
import pytest
from launching import assert_same
from launching import assert_same_averages
from launching import finish
from launching import free_addresses
from launching import results_of
from launching import start
from launching import succeed

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


def found_by_workers(folder):
    paths = (folder / f"results_{index}.json" for index in range(2))
    return [json.loads(path.read_text()) for path in paths]


def logged_epochs(folder):
    with open(folder / "log.csv") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


# Three processes for what seldom breaks; CI runs the first two.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a job that ran undisturbed."""
    path = tmp_path_factory.mktemp("workers")
    succeed(*run_workers(path))
    return path


def test_two_workers_train_as_two_replicas(folder, tmp_path_factory):
    chief, other = found_by_workers(folder)
    assert chief["is_chief"] and not other["is_chief"]
    assert_same(chief, other, 0)
    expected = results_of("replica_run.py", tmp_path_factory, "workers")
    # Sums over two numbers do not depend on the order; seen: no difference.
    assert_same(expected["workers_2"], chief, 1e-6)
    for key, value in chief["evaluated"].items():
        last = chief["history"][f"val_{key}"][-1]
        assert value == pytest.approx(last, abs=1e-6)


@pytest.fixture(scope="module")
def more_results(tmp_path_factory):
    """What both workers found in the cases that take longer."""
    path = tmp_path_factory.mktemp("more")
    succeed(*run_workers(path, more=True))
    return found_by_workers(path)


def test_a_pipeline_is_divided_among_workers(
    more_results, more_replica_results
):
    for worker in more_results:
        assert_same(
            more_replica_results["pipeline_2"], worker["pipeline"], 1e-6
        )


def test_workers_average_as_one_process(more_results, more_replica_results):
    for worker in more_results:
        assert_same_averages(
            more_replica_results["averages_1"], worker["averages"], 1e-4
        )


def test_workers_decide_alike_with_batch_norm_of_their_own(more_results):
    chief, other = (results["own_norm"] for results in more_results)
    differences = [
        np.abs(np.subtract(a, b)).max()
        for a, b in zip(chief["student"], other["student"], strict=True)
    ]
    # Else there was nothing to disagree in.
    assert max(differences) > 1e-3
    assert chief["checks"] and chief["checks"] == other["checks"]
    assert chief["history"]["val_cas"] == other["history"]["val_cas"]


def test_only_the_chief_writes(folder):
    chief, other = found_by_workers(folder)
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
    assert logged_epochs(folder) == ["0", "1", "2", "3"]
    loaded = keras.models.load_model(folder / "best.keras")
    best = int(np.argmax(chief["history"]["val_robust_accuracy"])) + 1
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
    succeed(*run_workers(tmp_path))
    undisturbed, resumed = map(found_by_workers, (folder, tmp_path))
    for worker in range(2):
        assert_same(undisturbed[worker], resumed[worker], 0)
    assert logged_epochs(tmp_path) == ["0", "1", "2", "3"]

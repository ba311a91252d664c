"""Runs of training in processes of their own."""

import json

import keras
import pytest
from launching import finish
from launching import start

# The scripts choose their backend themselves; one session runs them.
collect_ignore_glob = []
if keras.backend.backend() != "tensorflow":
    collect_ignore_glob.append("test_*.py")


@pytest.fixture(scope="session")
def replica_results(tmp_path_factory):
    """What `replica_run.py` found, for each case and number of replicas."""
    return _replica_results(
        tmp_path_factory,
        "single_image_last",
        "batch_norm_alone",
        "nan",
        "float16",
    )


@pytest.fixture(scope="session")
def results_of_replicas(tmp_path_factory):
    """What two replicas of one process find in the case of the two workers."""
    # Not with the others: each test process would compute those once more.
    return _replica_results(tmp_path_factory, "workers")["workers_2"]


@pytest.fixture(scope="session")
def more_replica_results(tmp_path_factory):
    """The same for cases that take longer."""
    return _replica_results(
        tmp_path_factory, "uneven_last_batch", "pipeline", "batch_norm"
    )


def _replica_results(tmp_path_factory, *cases):
    path = tmp_path_factory.mktemp("replicas") / "results.json"
    ((status, output),) = finish(start("replica_run.py", path, *cases))
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())

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
    """What `replica_run.py` found, for every case and number of replicas."""
    path = tmp_path_factory.mktemp("replicas") / "results.json"
    ((status, output),) = finish(start("replica_run.py", path))
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())

"""Runs of training in processes of their own."""

import keras
import pytest
from launching import results_of

# The scripts choose their backend themselves; one session runs them.
collect_ignore_glob = []
if keras.backend.backend() != "tensorflow":
    collect_ignore_glob.append("test_*.py")


@pytest.fixture(scope="session")
def more_replica_results(tmp_path_factory):
    """What `replica_run.py` finds in the cases that take longer."""
    cases = ("uneven_last_batch", "pipeline", "batch_norm", "averages")
    return results_of("replica_run.py", tmp_path_factory, *cases)

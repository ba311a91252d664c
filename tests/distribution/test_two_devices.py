"""JAX on two devices, and in two processes: the same numbers as on one."""

import json

import pytest
from launching import assert_same
from launching import finish
from launching import free_addresses
from launching import results_of
from launching import start

pytest.importorskip("jax")
# Compiled for one device and for two; CI runs the first test.
pytestmark = pytest.mark.slow

# The sums of a batch are taken in another order; seen: 5e-7.
TOLERANCE = 1e-5


def check_same(tmp_path_factory, case):
    """Returns what was found on one device."""
    results = results_of("device_run.py", tmp_path_factory, case)
    assert_same(*results.values(), TOLERANCE)
    return results["1"]


def test_two_devices_train_as_one(tmp_path_factory):
    check_same(tmp_path_factory, "partial_last_batch")


def test_two_devices_train_as_one_with_batch_norm(tmp_path_factory):
    check_same(tmp_path_factory, "batch_norm")


def run_processes(folder, *backups):
    """Runs two processes; their results go to `0.json` and `1.json`."""
    addresses = ",".join(free_addresses(2))
    return finish(
        *(
            start("process_run.py", folder / f"{i}.json", i, addresses, backup)
            for i, backup in enumerate(backups)
        )
    )


def test_two_processes_train_as_one(tmp_path_factory, tmp_path):
    expected = check_same(tmp_path_factory, "monitored")
    shared = tmp_path / "shared"
    for status, output in run_processes(tmp_path, shared, shared):
        assert status == 0, output[-3000:]
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert_same(expected, found, TOLERANCE)
    # The second process does not find the backup of the finished run.
    for status, output in run_processes(tmp_path, shared, tmp_path / "other"):
        assert status != 0
        assert "backups after the epochs [4, 0]" in output, output[-3000:]

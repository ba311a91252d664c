"""JAX on two devices, and in two processes: the same numbers as on one."""

import json
import time

import pytest
from launching import assert_same
from launching import assert_same_averages
from launching import finish
from launching import free_addresses
from launching import results_of
from launching import start

pytest.importorskip("jax")
# Compiled for one device and for two; CI runs the first test.
pytestmark = pytest.mark.slow

# The sums of a batch are taken in another order; seen: 5e-7.
TOLERANCE = 1e-5
# JAX waits 100 seconds for a sign of life.
NOTICED_WITHIN = 240


def check_same(tmp_path_factory, case):
    """Returns what was found on one device."""
    results = results_of("device_run.py", tmp_path_factory, case)
    assert_same(*results.values(), TOLERANCE)
    return results["1"]


def test_two_devices_train_as_one(tmp_path_factory):
    check_same(tmp_path_factory, "partial_last_batch")


def test_two_devices_train_as_one_with_batch_norm(tmp_path_factory):
    check_same(tmp_path_factory, "batch_norm")


@pytest.fixture(scope="module")
def averages(tmp_path_factory):
    """On one device and on two."""
    return results_of("device_run.py", tmp_path_factory, "averages")


def test_two_devices_average_as_one(averages):
    assert_same_averages(averages["1"], averages["2"], TOLERANCE)


def start_processes(folder, *arguments):
    """Starts two processes, each with its arguments.

    Their results go to `0.json` and `1.json`.
    """
    addresses = ",".join(free_addresses(2))
    return [
        start("process_run.py", folder / f"{i}.json", i, addresses, *own)
        for i, own in enumerate(arguments)
    ]


def run_processes(folder, *arguments):
    return finish(*start_processes(folder, *arguments))


def test_two_processes_train_as_one(tmp_path_factory, tmp_path):
    expected = check_same(tmp_path_factory, "monitored")
    shared = tmp_path / "shared"
    for status, output in run_processes(tmp_path, [shared], [shared]):
        assert status == 0, output[-3000:]
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert_same(expected, found, TOLERANCE)
    # The second process does not find the backup of the finished run.
    others = [shared], [tmp_path / "other"]
    for status, output in run_processes(tmp_path, *others):
        assert status != 0
        assert "backups after the epochs [4, 0]" in output, output[-3000:]


def test_two_processes_do_what_one_does_in_more_cases(
    averages, tmp_path_factory, tmp_path
):
    expected = results_of("device_run.py", tmp_path_factory, "pipeline")["1"]
    more = [tmp_path, "more"]
    for status, output in run_processes(tmp_path, more, more):
        assert status == 0, output[-3000:]
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert_same_averages(averages["1"], found["averages"], TOLERANCE)
        assert_same(expected, found["pipeline"], TOLERANCE)
        assert len(found["pipeline"]["history"]["multi_step_accuracy"]) == 4
        assert "2 processes and a `ModelParallel`" in found["divided"]


@pytest.mark.parametrize("dead", [1, 0], ids=["other", "chief"])
def test_a_dead_process_ends_the_job_which_resumes(
    tmp_path_factory, tmp_path, dead
):
    expected = check_same(tmp_path_factory, "monitored")
    shared = tmp_path / "shared"
    # In the third of four epochs.
    arguments = [[shared], [shared]]
    arguments[dead] = [shared, 10]
    processes = start_processes(tmp_path, *arguments)
    processes[dead].wait(timeout=300)
    died = time.monotonic()
    ended = finish(*processes, timeout=NOTICED_WITHIN)
    assert time.monotonic() - died < NOTICED_WITHIN
    assert ended[dead][0] == -9
    assert ended[1 - dead][0] != 0, ended[1 - dead][1][-3000:]
    # The same command again.
    for status, output in run_processes(tmp_path, [shared], [shared]):
        assert status == 0, output[-3000:]
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert_same(expected, found, TOLERANCE)

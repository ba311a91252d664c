"""JAX on two devices, and in two processes: the same numbers as on one."""

import json

import numpy as np
import pytest
from launching import finish
from launching import free_addresses
from launching import start

pytest.importorskip("jax")
# Compiled for one device and for two; CI runs the first test.
pytestmark = pytest.mark.slow


def run_devices(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("devices") / "results.json"
    ((status, output),) = finish(start("device_run.py", path, case))
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `device_run.py` found on one device and on two."""
    return run_devices(tmp_path_factory, "partial_last_batch")


def assert_same(one, two):
    # The sums of a batch are taken in another order; seen: 5e-7.
    assert set(one["history"]) == set(two["history"])
    for name, values in one["history"].items():
        np.testing.assert_allclose(
            values, two["history"][name], rtol=0, atol=1e-5, err_msg=name
        )
    for key in ("student", "teacher"):
        for a, b in zip(one[key], two[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        one["correlation"], two["correlation"], atol=1e-5
    )
    assert (one["steps"], one["updates"]) == (two["steps"], two["updates"])


def test_two_devices_train_as_one(results):
    assert_same(*results.values())


def test_two_devices_train_as_one_with_batch_norm(tmp_path_factory):
    assert_same(*run_devices(tmp_path_factory, "batch_norm").values())


def run_processes(folder, *backups):
    """Runs two processes; their results go to `0.json` and `1.json`."""
    addresses = ",".join(free_addresses(2))
    return finish(
        *(
            start(
                "process_run.py",
                folder / f"{index}.json",
                index,
                addresses,
                *backups[index : index + 1],
            )
            for index in range(2)
        )
    )


def test_two_processes_train_as_one(tmp_path_factory, tmp_path):
    one, two = run_devices(tmp_path_factory, "monitored").values()
    assert_same(one, two)
    shared = tmp_path / "shared"
    for status, output in run_processes(tmp_path, shared, shared):
        assert status == 0, output[-3000:]
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert_same(one, found)
    # The second process does not find the backup of the finished run.
    for status, output in run_processes(tmp_path, shared, tmp_path / "other"):
        assert status != 0
        assert "backups after the epochs [4, 0]" in output, output[-3000:]

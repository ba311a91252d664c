"""JAX on two devices, and in two processes: the same numbers as on one."""

import json

import numpy as np
import pytest
from launching import finish
from launching import free_addresses
from launching import start

pytest.importorskip("jax")

CASES = ("partial_last_batch", "batch_norm")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `device_run.py` found, for every case and number of devices."""
    path = tmp_path_factory.mktemp("devices") / "results.json"
    ((status, output),) = finish(start("device_run.py", path))
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())


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


@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_as_one(results, case):
    assert_same(results[f"{case}_1"], results[f"{case}_2"])


def test_two_processes_train_as_one(results, tmp_path):
    addresses = ",".join(free_addresses(2))
    paths = [tmp_path / f"{index}.json" for index in range(2)]
    processes = [
        start("process_run.py", path, index, addresses)
        for index, path in enumerate(paths)
    ]
    for status, output in finish(*processes):
        assert status == 0, output[-3000:]
    for path in paths:
        assert_same(
            results["partial_last_batch_1"], json.loads(path.read_text())
        )

"""AutoAttack on two devices finds what it finds on one."""

import json

import numpy as np
import pytest
from launching import finish
from launching import start


@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)]
)
def test_two_devices_find_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    path = tmp_path / "results.json"
    process = start("evaluation_run.py", backend, path)
    ((status, output),) = finish(process)
    assert status == 0, output[-3000:]
    results = json.loads(path.read_text())
    one, two = results["1"], results["2"]
    assert (one["devices"], two["devices"]) == (1, 2)
    # Something stands, and something fell to each attack.
    assert one["clean"] == 1
    assert set(one["fallen_to"]) == {-1, 1, 2}
    assert one["fallen_to"] == two["fallen_to"]
    assert one["findings"] == two["findings"]
    assert one["passes"] == two["passes"]
    np.testing.assert_allclose(one["images"], two["images"], atol=1e-5)

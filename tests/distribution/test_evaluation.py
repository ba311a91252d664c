"""AutoAttack on two devices finds what it finds on one."""

import numpy as np
import pytest
from launching import results_of


@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)]
)
def test_two_devices_find_the_same(backend, tmp_path_factory):
    pytest.importorskip(backend)
    results = results_of("evaluation_run.py", tmp_path_factory, backend)
    one, two = results["1"], results["2"]
    assert (one["devices"], two["devices"]) == (1, 2)
    # Something stands, and something fell to each attack.
    assert one["clean"] == 1
    assert set(one["fallen_to"]) == {-1, 1, 2}
    for key in ("fallen_to", "findings", "passes"):
        assert one[key] == two[key], key
    np.testing.assert_allclose(one["images"], two["images"], atol=1e-5)

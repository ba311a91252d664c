"""Each replica takes back its own perturbation of the weights."""

import json

import numpy as np
import pytest
from launching import finish
from launching import start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("tensorflow")
    path = tmp_path_factory.mktemp("awp") / "results.json"
    process = start("weight_perturbation_run.py", path)
    ((status, output),) = finish(process)
    assert status == 0, output[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("reassigns", [False, True])
def test_two_replicas_train_as_one(results, reassigns):
    one, two = (results[f"{reassigns}_{number}"] for number in (1, 2))
    # The sums of a batch are taken in another order, in float32.
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
    assert np.ptp(one["loss"]) > 0.01
    for (expected,), found in zip(one["weights"], two["weights"], strict=True):
        for values in found:
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)

"""Two processes share an evaluation, and find what one process finds."""

import json

import numpy as np
import pytest
from launching import free_addresses
from launching import start
from launching import succeed

# Three processes for each backend.
pytestmark = pytest.mark.slow

BACKENDS = ["tensorflow", "jax", "torch"]


def run(backend, folder, count):
    folder.mkdir()
    addresses = free_addresses(count)
    paths = [folder / f"results_{index}.json" for index in range(count)]
    succeed(
        *(
            start(
                "sharing_run.py",
                backend,
                path,
                index,
                ",".join(addresses),
                folder,
                # Each process has the CPU as its one device.
                CUDA_VISIBLE_DEVICES="",
            )
            for index, path in enumerate(paths)
        )
    )
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_find_what_one_finds(backend, tmp_path):
    pytest.importorskip(backend)
    (one,) = run(backend, tmp_path / "one", 1)
    two = run(backend, tmp_path / "two", 2)
    # Something was wrong, something stands, something fell to each attack.
    assert set(one["report"]["fallen_to"]) == {-1, 0, 1, 2}
    for found in two:
        for key in ("report", "few", "digits", "alone", "classes"):
            assert without_digits(found[key]) == without_digits(one[key]), key
        # The same batches: nothing but the threads of a sum can differ.
        for key in ("class", "instance", "images", "seen"):
            np.testing.assert_allclose(
                found[key], one[key], rtol=0, atol=1e-5, err_msg=key
            )
    # One of them says what it is waiting for.
    said = ["2 processes share" in each["said"] for each in two]
    assert said == [True, False]
    assert "processes share" not in one["said"]
    # Each process has a state of its own.
    states = {path.name for path in (tmp_path / "two").glob("*.npz")}
    assert states == {"state.0-of-2.npz", "state.1-of-2.npz"}
    assert one["refused"] == []
    for found in two:
        data, batches, seed = found["refused"]
        assert "processes 0 and 1 these differ: the images or labels" in data
        assert "another process, from batch 1 on" in batches
        assert "`seed` (0 in process 0, 1 in process 1)" in seed
    if backend != "jax":
        chief, other = (found["other_weights"] for found in two)
        assert chief["own"] != other["own"]
        for key in ("report", "matrix"):
            assert chief[key] == other[key]
            assert without_digits(chief[key]) == without_digits(
                one["other_weights"][key]
            )


def without_digits(found):
    """Floats to six digits."""
    if isinstance(found, float):
        return round(found, 6)
    if isinstance(found, list):
        return [without_digits(each) for each in found]
    if isinstance(found, dict):
        return {key: without_digits(each) for key, each in found.items()}
    return found

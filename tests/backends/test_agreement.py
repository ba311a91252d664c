"""TensorFlow, JAX and PyTorch: the same numbers, and files for each other."""

import importlib.util
import os
import pathlib

import backend_run
import keras
import numpy as np
import pytest
import small

import keras_wake

# PyTorch is not among the test requirements.
OTHERS = [b for b in ("jax", "torch") if importlib.util.find_spec(b)]

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="one session runs all backends",
    ),
    # JAX compiles for a minute; CI runs this file with all backends.
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `backend_run.py` found on each backend.

    Each loads the files of those that ran before it, and TensorFlow those of
    all others in the end.
    """
    folder = tmp_path_factory.mktemp("backends")

    def run(backend, *others):
        if backend == keras.backend.backend():
            # A process of its own would only cost another start.
            backend_run.main(folder, *others)
        else:
            package = str(pathlib.Path(keras_wake.__file__).parents[1])
            environment = {"KERAS_BACKEND": backend, "PYTHONPATH": package}
            script = backend_run.__file__, folder, *others
            environment = os.environ | environment
            small.output_of(*script, env=environment, timeout=900)
        return dict(np.load(folder / f"{backend}.npz"))

    known = ["tensorflow"]
    found = {"tensorflow": run("tensorflow")}
    for backend in OTHERS:
        found[backend] = run(backend, *known)
        known.append(backend)
    found["tensorflow"] |= run("tensorflow", *OTHERS)
    return found


@pytest.mark.parametrize("other", OTHERS)
def test_backends_agree(results, other):
    expected, found = results["tensorflow"], results[other]
    numbers = [name for name in expected if name in found]
    assert {
        *("logits", "delta_linf", "delta_l2", "fallen_linf", "images_l2"),
        *("log_loss", "log_val_teacher_cas", "log_multi_step_accuracy"),
        *("classifier_0", "teacher_0", "matrix", "cas", "own_matrix"),
    } <= {*numbers}
    for name in numbers:
        # Float32, in another order of sums, over 20 steps of training; seen:
        # 2e-6. No sign of a gradient, and no prediction, is so close to
        # turning that it does.
        np.testing.assert_allclose(
            found[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name
        )


def test_there_is_something_to_agree_on(results):
    found = results["tensorflow"]
    for name in ("linf", "l2"):
        assert np.abs(found[f"delta_{name}"]).mean() > 0.01
        # Several attacks bring something down, and something stands.
        assert {-1, 2, 3} <= set(found[f"fallen_{name}"])
    for name in ("loss", "val_loss", "val_cas", "val_teacher_cas"):
        assert np.ptp(found[f"log_{name}"]) > 0.1, name
    assert np.abs(found["classifier_0"] - found["teacher_0"]).max() > 0.01
    # The statistics of batch norm have moved as well.
    assert np.abs(found["classifier_4"] - found["teacher_4"]).max() > 0.01


@pytest.mark.parametrize("reader", ["tensorflow", *OTHERS])
@pytest.mark.parametrize("writer", ["tensorflow", *OTHERS])
def test_a_file_of_one_loads_on_the_others(results, reader, writer):
    found = results[reader]
    if f"{writer}_updates" not in found:
        pytest.skip("covered the other way round")
    # Twelve updates until the teacher was frozen, and none after.
    assert found[f"{writer}_updates"] == 12
    for name in ("loss", "accuracy", "robust_accuracy", "teacher_accuracy"):
        last = results[writer][f"log_val_{name}"][-1]
        assert found[f"{writer}_evaluated_{name}"] == pytest.approx(
            last, abs=2e-5
        )
    # Student, teacher and momentum go on as they would have.
    unbroken = results[writer]["unbroken"]
    np.testing.assert_allclose(
        found[f"{writer}_continued"], unbroken, rtol=0, atol=2e-5
    )

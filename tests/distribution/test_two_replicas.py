"""One replica and two: the same losses, metrics, CAS, student and teacher."""

import numpy as np
import pytest
from launching import assert_same
from launching import assert_same_averages
from launching import results_of

# Two processes of TensorFlow for most of a minute.
pytestmark = pytest.mark.slow

# Batches of 10 out of 39 leave 9, five on one replica and four on the other;
# batches of 12 out of 37 leave one image, and the second replica has none.
QUICK = ("single_image_last", "several_steps", "xla", "awp", "awp_reassigning")
LONGER = ("uneven_last_batch", "pipeline", "batch_norm")
REFUSED = {
    # A fault on the second replica.
    "nan": "1 image(s) of epoch 1, batch 2 contain NaN",
    # A replica with nothing to take the mean of would make all weights NaN.
    "batch_norm_alone": "1 replica(s) got no image of epoch 1, batch 3, and "
    "the batch norm there has no statistics.",
    "accumulating": "With several replicas, Keras's accumulation of gradients",
    "norm_in_attack": "On TensorFlow, replicas cannot exchange the statistics",
    # Keras would have each replica skip updates for itself.
    "float16": "With several replicas, Keras's scaling of the loss",
}


@pytest.fixture(scope="module")
def replica_results(tmp_path_factory):
    """What `replica_run.py` finds, for each case and number of replicas."""
    cases = (*QUICK, *REFUSED)
    return results_of("replica_run.py", tmp_path_factory, *cases)


def of_one_and_two(results, case, case_of_one=None):
    one, two = results[f"{case_of_one or case}_1"], results[f"{case}_2"]
    assert "error" not in one, one.get("error")
    assert "error" not in two, two.get("error")
    return one, two


def check_same(results, case, case_of_one=None):
    one, two = of_one_and_two(results, case, case_of_one)
    assert {"val_cas", "val_teacher_robust_accuracy"} <= set(one["history"])
    # The sums of a batch are taken in another order, in float32; seen: 1e-6.
    assert_same(one, two, 1e-4)
    assert one["steps"] == 16
    assert one["updates"] == 8
    # There is something to compare.
    for key in ("loss", "val_cas", "val_teacher_cas", "val_loss"):
        assert np.ptp(one["history"][key]) > 0.01, key
    assert np.ptp(one["history"]["robust_accuracy"]) > 0
    difference = np.subtract(one["student"][0], one["teacher"][0])
    assert np.abs(difference).max() > 0.001


def test_two_replicas_run_several_steps_in_one_call(replica_results):
    check_same(replica_results, "several_steps")


def test_attack_under_xla_finds_what_it_finds_without(replica_results):
    check_same(replica_results, "xla", "several_steps")


def test_two_replicas_train_as_one(replica_results):
    check_same(replica_results, "single_image_last")
    one, two = of_one_and_two(replica_results, "single_image_last")
    # What the monitor sees is among what is the same.
    for name in ("single_step_accuracy", "multi_step_accuracy"):
        assert len(one["history"][name]) == 4
    # As is an evaluation outside `fit`, which agrees with the last one in it.
    kinds = ("accuracy", "robust_accuracy")
    teacher = (f"teacher_{kind}" for kind in kinds)
    assert set(one["evaluated"]) == {"loss", *kinds, *teacher}
    for key, value in one["evaluated"].items():
        last = two["history"][f"val_{key}"][-1]
        assert value == pytest.approx(last, abs=1e-4)


@pytest.mark.parametrize("case", LONGER)
def test_two_replicas_train_as_one_in_more_cases(more_replica_results, case):
    check_same(more_replica_results, case)


def test_two_replicas_average_as_one(more_replica_results):
    one, two = of_one_and_two(more_replica_results, "averages")
    # The sums of a batch are taken in another order, in float32.
    assert_same_averages(one, two, 1e-4)


@pytest.mark.parametrize("case", REFUSED)
def test_what_replicas_cannot_train_is_refused(replica_results, case):
    error = replica_results[f"{case}_2"]["error"]
    assert error.startswith(f"ValueError: {REFUSED[case]}")


@pytest.mark.parametrize("case", ["awp", "awp_reassigning"])
def test_each_replica_takes_back_its_own_perturbation_of_the_weights(
    replica_results, case
):
    one, two = of_one_and_two(replica_results, case)
    # The sums of a batch are taken in another order, in float32.
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
    assert np.ptp(one["loss"]) > 0.01
    for (expected,), found in zip(one["weights"], two["weights"], strict=True):
        assert len(found) == 2
        for values in found:
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)

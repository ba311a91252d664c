"""One replica and two: the same losses, metrics, CAS, student and teacher."""

import numpy as np
import pytest

# Two processes of TensorFlow for most of a minute.
pytestmark = pytest.mark.slow

# Batches of 10 out of 39 leave 9, five on one replica and four on the other;
# batches of 12 out of 37 leave one image, and the second replica has none.
QUICK = ("single_image_last",)
LONGER = ("uneven_last_batch", "pipeline", "batch_norm")


def assert_equal(one, two):
    # The sums of a batch are taken in another order, in float32; seen: 1e-6.
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-4)


def check_same(results, case):
    one, two = results[f"{case}_1"], results[f"{case}_2"]
    assert "error" not in one, one.get("error")
    assert "error" not in two, two.get("error")
    assert set(one["history"]) == set(two["history"])
    assert {"val_cas", "val_teacher_robust_accuracy"} <= set(one["history"])
    for key, values in one["history"].items():
        assert_equal(values, two["history"][key])
    for name in ("student", "teacher"):
        for value, other in zip(one[name], two[name], strict=True):
            assert_equal(value, other)
    assert_equal(one["correlation"], two["correlation"])
    assert one["steps"] == two["steps"] == 16
    assert one["updates"] == two["updates"] == 8
    # There is something to compare.
    for key in ("loss", "val_cas", "val_teacher_cas", "val_loss"):
        assert np.ptp(one["history"][key]) > 0.01, key
    assert np.ptp(one["history"]["robust_accuracy"]) > 0
    difference = np.subtract(one["student"][0], one["teacher"][0])
    assert np.abs(difference).max() > 0.001


@pytest.mark.parametrize("case", QUICK)
def test_two_replicas_train_as_one(replica_results, case):
    check_same(replica_results, case)


@pytest.mark.parametrize("case", LONGER)
def test_two_replicas_train_as_one_in_more_cases(more_replica_results, case):
    check_same(more_replica_results, case)


def test_evaluation_outside_fit_agrees(replica_results):
    one, two = (replica_results[f"single_image_last_{n}"] for n in (1, 2))
    assert set(one["evaluated"]) == {
        "loss",
        "accuracy",
        "robust_accuracy",
        "teacher_accuracy",
        "teacher_robust_accuracy",
    }
    for key, value in one["evaluated"].items():
        assert_equal(value, two["evaluated"][key])
        assert_equal(value, two["history"][f"val_{key}"][-1])


def test_monitor_sees_the_same(replica_results):
    for name in ("single_step_accuracy", "multi_step_accuracy"):
        one, two = (
            replica_results[f"single_image_last_{n}"]["history"][name]
            for n in (1, 2)
        )
        assert len(one) == 4
        assert_equal(one, two)


def test_a_fault_on_the_second_replica_is_found(replica_results):
    assert replica_results["nan_2"]["error"].startswith(
        "ValueError: 1 image(s) of epoch 1, batch 2 contain NaN"
    )


def test_batch_norm_without_images_is_refused(replica_results):
    # A replica with nothing to take the mean of would make all weights NaN.
    assert replica_results["batch_norm_alone_2"]["error"].startswith(
        "ValueError: 1 replica(s) got no image of epoch 1, batch 3, and the "
        "batch norm there has no statistics."
    )


def test_float16_is_refused(replica_results):
    # Keras would have each replica skip updates for itself.
    assert replica_results["float16_2"]["error"].startswith(
        "ValueError: With several replicas, Keras's scaling of the loss"
    )

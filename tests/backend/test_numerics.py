"""Half precision: perturbations in float32, gradients that do not underflow."""

import keras
import numpy as np
import pytest
import small
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import special

import keras_wake as kw
from keras_wake import backend
from keras_wake.backend import numerics

POLICIES = ("mixed_bfloat16", "mixed_float16")


@pytest.fixture
def policy(request):
    """Sets a dtype policy for the time of a test."""
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def network(margin, share=1.0):
    """A linear network that is sure of its first class by `margin`.

    The gradient between its two layers is `share` of that before them.
    """
    classifier = small.network(lambda: [keras.layers.Dense(6, use_bias=False)])
    rng = np.random.default_rng(0)
    classifier.set_weights(
        [
            rng.normal(0, 0.3, (16, 6)) / share,
            rng.normal(0, 0.3, (6, 3)) * share,
            np.eye(3)[0] * margin,
        ]
    )
    return classifier


def data(count=24):
    rng = np.random.default_rng(1)
    patterns = rng.random((3, 4, 4, 1))
    y = rng.integers(0, 3, count).astype("int32")
    x = 0.6 * patterns[y] + 0.4 * rng.random((count, 4, 4, 1))
    return x.astype("float32"), y


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_finds_its_way_where_the_network_is_sure(policy, norm):
    # p − y is 1e-5 here, and behind the last layer 1e-9, below the smallest
    # number of float16.
    classifier = network(margin=12.0, share=1e-3)
    assert classifier.layers[-1].compute_dtype == policy[6:]
    x = np.full((5, 4, 4, 1), 0.5, "float32")
    y = np.zeros(5, "int32")
    attack = kw.attacks.FGSM(norm, epsilon=0.1)
    x_adv = attack(classifier, x, y)
    assert keras.backend.standardize_dtype(x_adv.dtype) == "float32"
    first, second, bias = (
        weight.astype("float64") for weight in classifier.get_weights()
    )
    logits = x.reshape(5, 16).astype("float64") @ first @ second + bias
    probabilities = special.softmax(logits, axis=1)
    assert 1e-6 < probabilities[:, 1:].max() < 1e-4
    gradient = (probabilities - np.eye(3)[y]) @ second.T @ first.T
    expected = 0.1 * np.sign(gradient)
    if norm == "l2":
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        expected = 0.1 * gradient / length
    delta = to_numpy(x_adv).reshape(5, 16) - 0.5
    # Of a direction, half precision keeps two to three digits. No pixel is
    # so close to 0 that its sign would turn.
    np.testing.assert_allclose(delta, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_without_the_scale_there_is_no_direction(policy, monkeypatch):
    # Otherwise the test above would hold for a scale that does nothing.
    classifier = network(margin=12.0, share=1e-3)
    monkeypatch.setattr(numerics, "scaled_losses", lambda losses, *_: losses)
    x = np.full((5, 4, 4, 1), 0.5, "float32")
    attack = kw.attacks.FGSM(epsilon=0.1)
    x_adv = to_numpy(attack(classifier, x, np.zeros(5, "int32")))
    np.testing.assert_array_equal(x_adv, x)


def test_scaled_losses_have_the_gradient_of_the_losses():
    rng = np.random.default_rng(0)
    logits = ops.convert_to_tensor(rng.normal(0, 2, (6, 3)).astype("float32"))
    labels = ops.convert_to_tensor(np.eye(3, dtype="float32")[[0, 1, 2] * 2])
    ones = ops.ones((6,))
    scale = to_numpy(numerics.scaled_losses(ones, labels, logits))
    probabilities = to_numpy(ops.softmax(logits)).astype("float64")
    size = np.abs(probabilities - to_numpy(labels)).max(axis=1)
    np.testing.assert_allclose(scale * size, 16.0, rtol=1e-5)


def test_an_overflow_is_no_direction():
    gradient = ops.convert_to_tensor([np.nan, np.inf, -np.inf, 2.0], "float32")
    assert to_numpy(numerics.finite(gradient)).tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_wake_trains_in_half_precision(policy):
    classifier = network(margin=0.0)
    pgd = kw.attacks.PGD(epsilon=0.03, steps=3, random_start=False)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    ramp = kw.schedules.DistillationRamp(1, 4)
    model = small.wake(classifier, pgd, optimizer, schedule=ramp)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    attribution = kw.CrossClassAttribution()
    history = model.fit(
        *data(),
        batch_size=8,
        epochs=8,
        shuffle=False,
        validation_data=data(),
        callbacks=[kw.EMATeacher(0.8), attribution],
        verbose=0,
    ).history
    assert history["val_robust_accuracy"][-1] > 0.6
    assert np.all(np.isfinite(history["loss"]))
    # Three epochs of three updates, less those that the loss scale skipped.
    updates = int(to_numpy(model.teacher_updates))
    assert updates == 9 if policy == "mixed_bfloat16" else 1 <= updates <= 9
    for network_ in (model.classifier, model.teacher):
        assert network_.layers[-1].compute_dtype == policy[6:]
        for variable in network_.variables:
            assert variable.dtype == "float32"
    # The float32 twin gives the same matrix.
    keras.config.set_dtype_policy("float32")
    twin = network(margin=0.0)
    twin.set_weights(classifier.get_weights())
    expected = kw.attribution.correlation_matrix(twin, data(), attack=pgd)
    np.testing.assert_allclose(attribution.correlation, expected, atol=0.02)


def test_a_policy_of_single_layers_is_seen():
    half = small.network(lambda: [keras.layers.Dense(8, dtype="mixed_float16")])
    for classifier, scaled in ((half, True), (network(0.0), False)):
        assert numerics.computes_in_float16(classifier) == scaled
        kind = type(small.wake(classifier).optimizer)
        assert (kind is keras.optimizers.LossScaleOptimizer) == scaled


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_finds_one_bad_entry_and_no_large_ones(bad):
    largest = np.finfo("float32").max
    good = [np.full((50, 3), largest, "float32"), np.float32(largest)]
    tensors = [keras.ops.convert_to_tensor(value) for value in good]
    assert bool(backend.all_finite(tensors))
    good[0][17, 1] = bad
    tensors[0] = keras.ops.convert_to_tensor(good[0])
    assert not bool(backend.all_finite(tensors))
    assert bool(backend.all_finite([]))

"""A whole step of TRADES, its attack included, against PyTorch in float64."""

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake.utils.seeds import SampleSeed

pytest.importorskip("torch", reason="the reference is in PyTorch")

import reference_step as reference
import torch

# ℓ2, because the sign of a gradient near 0 is another in float32.
ATTACK = NORM, EPSILON, STEP_SIZE, STEPS = "l2", 0.6, 0.2, 4
BETA, RATE = 6.0, 0.5
COUNT = 8


def step_by_hand(weights, images, labels, noise):
    weights = reference.tensors(weights)
    images, labels, noise = reference.tensors((images, labels, noise))
    # The attack raises the divergence from the clean logits.
    fixed = reference.forward(weights, images)[0].detach()
    adversarial = reference.ascend(
        weights,
        images,
        lambda logits: reference.kl(fixed, logits),
        reference.project(0.001 * noise, images, NORM, EPSILON),
        *ATTACK,
    )
    weights = [w.requires_grad_(True) for w in weights]
    clean, other = (
        reference.forward(weights, x)[0] for x in (images, adversarial)
    )
    losses = reference.cross_entropy(labels, clean)
    losses = losses + BETA * reference.kl(clean, other)
    loss = losses.mean() + reference.L2 * (weights[0] ** 2).sum()
    gradients = torch.autograd.grad(loss, weights)
    after = [
        (w - RATE * g).detach().numpy()
        for w, g in zip(weights, gradients, strict=True)
    ]
    return after, adversarial.numpy()


def test_equals_the_step_by_hand_from_the_same_start(monkeypatch):
    # Thirty times larger than the attack's own: at a distance of 0.001 the
    # divergence is a difference of which float32 has three digits.
    noise = 30 * np.random.default_rng(3).normal(size=(COUNT, *reference.SHAPE))

    def given(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
        return keras.ops.convert_to_tensor(stddev * noise + mean, "float32")

    def given_by_sample(self, counter, shape):
        return given(shape)

    network = reference.small_network()
    x, y = reference.small_data(COUNT)
    first = network.get_weights()
    expected, adversarial = step_by_hand(first, x, np.eye(3)[y], noise)
    attack, objective = kw.attacks.PGD(*ATTACK), kw.objectives.TRADES(BETA)
    model = kw.WakeModel(network, attack, objective)
    assert model.attack.loss == "kl"
    monkeypatch.setattr(keras.random, "normal", given)
    # A step draws for each sample, from its position in the batch.
    monkeypatch.setattr(SampleSeed, "normal", given_by_sample)
    found = model.attack(network, x, y, seed=0)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found), adversarial, atol=2e-5
    )
    assert np.abs(adversarial - x).max() > 0.05
    model.compile(keras.optimizers.SGD(RATE))
    model.fit(x, y, batch_size=COUNT, shuffle=False, verbose=0)
    for value, other in zip(network.get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=2e-5)
    assert np.abs(expected[0] - first[0]).max() > 1e-2

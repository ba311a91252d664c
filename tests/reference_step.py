"""Adversarial training with WAKE, written out in PyTorch and float64.

Independent of keras-wake: the network, the attack, the loss, SGD with
momentum and the teacher's average are spelled out here from the formulas of
the paper. `small_network` is the Keras network that it is the twin of.
"""

import keras
import numpy as np
import torch
from torch.nn import functional

# The numbers are few, and TensorFlow's threads wait for a core as well.
torch.set_num_threads(1)

SHAPE = (6, 6, 1)
CLASSES = 3
MOMENTUM_OF_NORM = 0.8
EPSILON_OF_NORM = 1e-3
L2 = 0.02


def small_network(batch_norm=False, seed=0):
    """Two convolutions and a linear head; a regulariser on the first."""
    keras.utils.set_random_seed(seed)
    norm = keras.layers.BatchNormalization(
        momentum=MOMENTUM_OF_NORM, epsilon=EPSILON_OF_NORM
    )
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(
                4,
                3,
                padding="same",
                kernel_regularizer=keras.regularizers.L2(L2),
            ),
            *([norm] if batch_norm else []),
            keras.layers.ReLU(),
            keras.layers.Conv2D(5, 3, strides=2),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES),
        ]
    )


def small_data(count, seed=0):
    """Images of three patterns under noise, and their class numbers."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((CLASSES, *SHAPE))
    labels = rng.integers(0, CLASSES, count)
    noise = rng.random((count, *SHAPE))
    images = 0.5 * patterns[labels] + 0.5 * noise
    return images.astype("float32"), labels.astype("int32")


def tensors(weights):
    return [torch.tensor(np.asarray(w), dtype=torch.float64) for w in weights]


def forward(weights, images, training=False):
    """Logits, and the batch-norm statistics after the call."""
    weights = list(weights)
    kernel, bias = weights.pop(0), weights.pop(0)
    x = images.permute(0, 3, 1, 2)
    x = functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1)
    statistics = []
    if len(weights) > 4:
        gamma, beta, mean, variance = (weights.pop(0) for _ in range(4))
        if training:
            seen = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            rate = 1 - MOMENTUM_OF_NORM
            statistics = [
                (old + rate * (new - old)).detach()
                for old, new in zip((mean, variance), seen, strict=True)
            ]
            mean, variance = seen
        channel = (None, slice(None), None, None)
        x = (x - mean[channel]) / (variance[channel] + EPSILON_OF_NORM).sqrt()
        x = x * gamma[channel] + beta[channel]
    kernel, bias = weights.pop(0), weights.pop(0)
    x = functional.conv2d(x.relu(), kernel.permute(3, 2, 0, 1), bias, stride=2)
    kernel, bias = weights
    return x.relu().mean((2, 3)) @ kernel + bias, statistics


def cross_entropy(labels, logits):
    return -(labels * logits.log_softmax(1)).sum(1)


def pgd(weights, images, labels, norm, epsilon, step_size, steps):
    """PGD from δ = 0, the network in inference mode."""
    delta = torch.zeros_like(images)
    for _ in range(steps):
        delta.requires_grad_(True)
        logits, _ = forward(weights, images + delta)
        loss = cross_entropy(labels, logits).sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = delta.detach()

        def size(value):
            return value.flatten(1).norm(dim=1)[:, None, None, None]

        if norm == "linf":
            delta = delta + step_size * gradient.sign()
            delta = delta.clamp(-epsilon, epsilon)
        else:
            delta = delta + step_size * gradient / (size(gradient) + 1e-10)
            delta = delta * (epsilon / size(delta)).clamp(max=1)
        delta = (images + delta).clamp(0, 1) - images
    return images + delta


def ramp(t, start, end, peak, final):
    if t <= start:
        return 0.0
    return final if t >= end else peak * (t - start) / (end - start)


def distillation(student, teacher, temperature, scale):
    p = (teacher / temperature).log_softmax(1)
    q = (student / temperature).log_softmax(1)
    divergence = (p.exp() * (p - q)).sum(1)
    return divergence * temperature**2 if scale else divergence


def train(
    weights,
    images,
    labels,
    sample_weights,
    epochs,
    batch_size,
    attack,
    learning_rate,
    momentum,
    schedule=None,
    decay=None,
    warmup=False,
    copy_statistics=False,
    temperature=2.0,
    scale=True,
):
    """Trains and returns what there is at the end of every epoch.

    `labels` are (count, classes); `attack` are the arguments of `pgd` or
    `None`, `schedule` those of `ramp` or `None`, `decay` is `None` without a
    teacher.
    """
    student = tensors(weights)
    teacher = [w.clone() for w in student]
    is_norm = len(student) > 6
    statistics_at = (4, 5) if is_norm else ()
    trained = [n for n in range(len(student)) if n not in statistics_at]
    velocity = [torch.zeros_like(w) for w in student]
    images, labels, sample_weights = tensors((images, labels, sample_weights))
    updates = 0
    reports = []
    for t in range(1, epochs + 1):
        weight = ramp(t, *schedule) if schedule else 0.0
        total = hits = 0.0
        for first in range(0, len(images), batch_size):
            part = slice(first, first + batch_size)
            x, y = images[part], labels[part]
            if attack:
                x = pgd(student, x, y, *attack)
            for n in trained:
                student[n].requires_grad_(True)
            logits, statistics = forward(student, x, training=True)
            losses = (1 - weight) * cross_entropy(y, logits)
            if weight:
                with torch.no_grad():
                    target, _ = forward(teacher, x)
                losses = losses + weight * distillation(
                    logits, target, temperature, scale
                )
            loss = (losses * sample_weights[part]).mean()
            loss = loss + L2 * (student[0] ** 2).sum()
            gradients = torch.autograd.grad(loss, [student[n] for n in trained])
            total += loss.item() * len(x)
            hits += (logits.argmax(1) == y.argmax(1)).sum().item()
            student = [w.detach() for w in student]
            for n, gradient in zip(trained, gradients, strict=True):
                velocity[n] = momentum * velocity[n] - learning_rate * gradient
                student[n] = student[n] + velocity[n]
            for n, value in zip(statistics_at, statistics, strict=True):
                student[n] = value
            if decay is not None and (schedule is None or t < schedule[1]):
                rate = 1 - decay
                if warmup:
                    rate = 1 - min(decay, (1 + updates) / (10 + updates))
                teacher = [
                    new
                    if copy_statistics and n in statistics_at
                    else old + rate * (new - old)
                    for n, (old, new) in enumerate(
                        zip(teacher, student, strict=True)
                    )
                ]
                updates += 1
        reports.append(
            {
                "loss": total / len(images),
                "accuracy": hits / len(images),
                "kd_weight": weight,
                "student": [w.numpy() for w in student],
                "teacher": [w.numpy() for w in teacher],
            }
        )
    return reports

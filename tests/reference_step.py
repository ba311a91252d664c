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
    layers = keras.layers
    norm = layers.BatchNormalization(
        momentum=MOMENTUM_OF_NORM, epsilon=EPSILON_OF_NORM
    )
    decay = keras.regularizers.L2(L2)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, padding="same", kernel_regularizer=decay),
            *([norm] if batch_norm else []),
            layers.ReLU(),
            layers.Conv2D(5, 3, strides=2),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
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


def kl(p_logits, q_logits):
    p, q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def size(values):
    return values.flatten(1).norm(dim=1)[:, None, None, None]


def project(delta, images, norm, epsilon):
    """The nearest δ in the ball, and then in the bounds."""
    if norm == "linf":
        delta = delta.clamp(-epsilon, epsilon)
    else:
        delta = delta * (epsilon / size(delta)).clamp(max=1)
    return (images + delta).clamp(0, 1) - images


def ascend(weights, images, losses, delta, norm, epsilon, step_size, steps):
    """PGD from a given δ, the network in inference mode."""
    for _ in range(steps):
        delta.requires_grad_(True)
        logits, _ = forward(weights, images + delta)
        (gradient,) = torch.autograd.grad(losses(logits).sum(), delta)
        if norm == "linf":
            step = gradient.sign()
        else:
            step = gradient / (size(gradient) + 1e-10)
        delta = delta.detach() + step_size * step
        delta = project(delta, images, norm, epsilon)
    return images + delta


def pgd(weights, images, labels, *attack):
    """Raises the cross-entropy from δ = 0."""

    def losses(logits):
        return cross_entropy(labels, logits)

    return ascend(weights, images, losses, torch.zeros_like(images), *attack)


def ramp(t, start, end, peak, final):
    if t <= start:
        return 0.0
    return final if t >= end else peak * (t - start) / (end - start)


def distillation(student, teacher, temperature, scale):
    divergence = kl(teacher / temperature, student / temperature)
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

    `labels` are (count, classes). `attack` has the arguments of `ascend` from
    `norm` on, `schedule` those of `ramp`; without a teacher, `decay` is `None`.
    """
    student = tensors(weights)
    teacher = [w.clone() for w in student]
    statistics_at = (4, 5) if len(student) > 6 else ()
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

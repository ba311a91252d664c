"""Adversarial training in PyTorch, which the benchmarks compare with."""

import copy

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two times batch norm, ReLU, 3x3 convolution, around a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return out + shortcut


class PreActivationNet(nn.Module):
    """A residual network, pre-activated, with as many blocks of each width."""

    def __init__(self, first, widths, blocks_of_each):
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, 1, 1, bias=False)
        blocks, inputs = [], first
        for group, outputs in enumerate(widths):
            for block in range(blocks_of_each):
                stride = 2 if group and not block else 1
                blocks.append(Block(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, 10)
        _add_statistics(self)

    def forward(self, x):
        out = self.blocks(self.conv1((x - self.mean) / self.std))
        return self.linear(F.relu(self.bn(out)).mean((2, 3)))


def PreActResNet18(width=64):
    """The pre-activation ResNet-18 as published."""
    return PreActivationNet(width, [width * 2**n for n in range(4)], 2)


def WideResNet(depth=28, widen_factor=10):
    """The wide residual network as published."""
    widths = [16 * widen_factor * 2**n for n in range(3)]
    return PreActivationNet(16, widths, (depth - 4) // 6)


def _add_statistics(network):
    """Mean and standard deviation of CIFAR-10's pixels."""
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    std = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
    network.register_buffer("mean", mean)
    network.register_buffer("std", std)


def sgd(network, **kwargs):
    """The optimiser of all contenders."""
    return torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, **kwargs
    )


def ascend(clean, delta, gradient, epsilon, step_size):
    """One step of PGD in the ℓ∞ ball, from the gradient on."""
    delta = delta + step_size * gradient.sign()
    delta = delta.clamp(-epsilon, epsilon)
    return (clean + delta).clamp(0, 1) - clean


def pgd(loss, clean, labels, epsilon, step_size, steps, ascend=ascend):
    """Adversarial images after `steps` steps from a random start.

    Args:
        loss: Maps images and labels to the sum of the losses.
        clean: Images (batch, channels, height, width).
        labels: What `loss` takes: class numbers (batch,), or logits.
        epsilon: Radius.
        step_size: Length of a step.
        steps: Number of steps.
        ascend: The step after the gradient, for a compiled one.
    """
    delta = torch.empty_like(clean).uniform_(-epsilon, epsilon)
    delta = (clean + delta).clamp(0, 1) - clean
    for _ in range(steps):
        delta.requires_grad_(True)
        # No gradient of the weights: autograd computes what it is asked for.
        (gradient,) = torch.autograd.grad(loss(clean + delta, labels), delta)
        delta = ascend(clean, delta.detach(), gradient, epsilon, step_size)
    return clean + delta


def for_attack(network):
    """The network in evaluation mode, on the same memory, without gradients.

    A compiled backward pass computes all gradients that it might be asked
    for; those of the weights would be wasted in an attack.
    """
    memory = {id(buffer): buffer for buffer in network.buffers()}
    for weight in network.parameters():
        memory[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
    return copy.deepcopy(network, memory).eval()


def distillation(student, teacher, temperature=2.0):
    """KD of the logits, averaged over the batch."""
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def divergence(logits, clean_logits):
    """KL of TRADES, from what is predicted on clean images; a sum."""
    return F.kl_div(
        F.log_softmax(logits, dim=1),
        F.log_softmax(clean_logits, dim=1),
        reduction="sum",
        log_target=True,
    )


def forward_flops(network) -> int:
    """Of one image: 2 × the multiplications of convolutions and layers."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        places = output[0].numel() // output.shape[1]
        total += 2 * layer.weight.numel() * places

    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    handles = [layer.register_forward_hook(count) for layer in layers]
    mode = network.training
    with torch.no_grad():
        network.eval()(torch.zeros_like(network.mean).expand(1, 3, 32, 32))
    network.train(mode)
    for handle in handles:
        handle.remove()
    return total

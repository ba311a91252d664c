"""WAKE on CIFAR-10 with the published settings: one GPU, or several.

    python examples/cifar10.py

On a CPU, a small part of it:

    python examples/cifar10.py --model small --limit 3000 --epochs 60
"""

import runner

DEFAULTS = {
    "dataset": "cifar10",
    "model": "preact_resnet18",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "epsilons": {"linf": 8 / 255, "l2": 128 / 255},
    "validation": 1000,
}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

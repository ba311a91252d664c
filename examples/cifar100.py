"""WAKE on CIFAR-100 with the published settings of CIFAR-10.

python examples/cifar100.py
"""

import runner

DEFAULTS = {
    "dataset": "cifar100",
    "model": "preact_resnet18",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "epsilons": {"linf": 8 / 255, "l2": 128 / 255},
    "validation": 1000,
}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

"""WAKE with a transformer: DeiT-Ti, patches of 4 pixels, on CIFAR-10.

    pip install -e '.[hub]'
    python examples/cifar10_deit.py

The settings are those of CIFAR-10, as published; robust accuracy is under
PGD-20.
"""

import runner

DEFAULTS = {
    "dataset": "cifar10",
    "model": "deit_tiny",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "epsilons": {"linf": 8 / 255, "l2": 128 / 255},
    "validation": 1000,
    "eval_steps": 20,
}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

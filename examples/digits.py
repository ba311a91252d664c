"""WAKE on scikit-learn's real 8x8 digits: minutes on two CPU cores.

python examples/digits.py
"""

import runner

DEFAULTS = {
    "dataset": "digits",
    "model": "small",
    "epochs": 24,
    "batch_size": 64,
    "learning_rate": 0.1,
    "epsilons": {"linf": 0.15, "l2": 0.75},
    "validation": 0.2,
    "decay": 0.99,
    "ema_warmup": True,
}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

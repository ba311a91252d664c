"""WAKE on scikit-learn's real 8x8 digits: minutes on two CPU cores.

python examples/digits.py
"""

import runner

if __name__ == "__main__":
    runner.main(
        __doc__,
        {
            "dataset": "digits",
            "model": "small",
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 0.1,
            "epsilon": 0.15,
            "validation": 0.2,
            "decay": 0.99,
            "ema_warmup": True,
        },
    )

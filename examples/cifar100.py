"""WAKE on CIFAR-100 with the published settings of CIFAR-10.

python examples/cifar100.py
"""

import cifar10
import runner

DEFAULTS = {**cifar10.DEFAULTS, "dataset": "cifar100"}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

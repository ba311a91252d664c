"""WAKE with a transformer: DeiT-Ti, patches of 4 pixels, on CIFAR-10.

    pip install -e '.[hub]'
    python examples/cifar10_deit.py

The settings are those of CIFAR-10, as published; robust accuracy is under
PGD-20.
"""

import cifar10
import runner

DEFAULTS = {**cifar10.DEFAULTS, "model": "deit_tiny"}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

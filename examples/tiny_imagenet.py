"""WAKE on Tiny-ImageNet, 64x64 and 200 classes, from its official folder.

    python examples/tiny_imagenet.py --data-dir tiny-imagenet-200

The labelled images of `val` are the test set, as usual; the images that choose
the best epoch are taken from the training set.
"""

import cifar10
import runner

DEFAULTS = {**cifar10.DEFAULTS, "dataset": "tiny_imagenet", "validation": 2000}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

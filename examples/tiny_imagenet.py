"""WAKE on Tiny-ImageNet, 64x64 and 200 classes, from its official folder.

    python examples/tiny_imagenet.py --data-dir tiny-imagenet-200

The labelled images of `val` are the test set, as usual; the images that choose
the best epoch are taken from the training set.
"""

import runner

DEFAULTS = {
    "dataset": "tiny_imagenet",
    "model": "preact_resnet18",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "epsilons": {"linf": 8 / 255, "l2": 128 / 255},
    "validation": 2000,
}

if __name__ == "__main__":
    runner.main(__doc__, DEFAULTS)

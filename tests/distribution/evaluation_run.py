"""Evaluates the same classifier on one and on two devices.

Run by `test_evaluation.py` as a process of its own, because devices must be
set up before the backend starts: `evaluation_run.py RESULTS.json BACKEND`.
"""

import json
import os
import pathlib
import sys

PATH, BACKEND = sys.argv[1:]
os.environ["KERAS_BACKEND"] = BACKEND
if BACKEND == "jax":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
else:
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    # It would take longer than all that is computed (tests/conftest.py).
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )

import contextlib  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
from training_case import classifier  # noqa: E402
from training_case import data  # noqa: E402

import keras_wake as kw  # noqa: E402
from keras_wake import backend  # noqa: E402

ATTACKS = [
    kw.attacks.PGD(epsilon=0.05, steps=2),
    kw.attacks.APGD(epsilon=0.05, steps=5),
]


def scope(devices):
    """Where a classifier for so many devices is made."""
    if BACKEND == "jax":
        used = keras.distribution.list_devices()[:devices]
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=used)
        )
    elif devices == 2:
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
    return contextlib.nullcontext()


def evaluate(devices):
    with scope(devices):
        network = classifier(batch_norm=True, synchronized=False)
    # 37 samples in batches of 8 end in one of 5, which two devices share
    # unevenly unless it is padded.
    x, _ = data(37, one_hot=False)
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)
    report = kw.evaluation.autoattack(
        network,
        (x, y),
        attacks=ATTACKS,
        batch_size=8,
        verbose=0,
        return_images=True,
    )
    return {
        "devices": backend.device_count(network),
        "fallen_to": report.fallen_to.tolist(),
        "images": report.images.tolist(),
        "passes": report.forward_passes,
        "findings": [code for code, _ in report.findings],
        "clean": np.mean(report.fallen_to != 0),
    }


results = {devices: evaluate(devices) for devices in (1, 2)}
pathlib.Path(PATH).write_text(json.dumps(results))

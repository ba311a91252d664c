"""Trains the same model on one and on two host devices of JAX.

Run by `test_two_devices.py` as a process of its own, because `XLA_FLAGS` must
be set before JAX starts: `device_run.py RESULTS.json CASE`. CASE is one of
those below, or `averages`.
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
from training_case import train
from training_case import train_averages

MONITORED = {"weights": True, "monitor": True, "evaluate": True}
# name: (images, batch size, options). JAX divides a batch evenly or not at
# all: the last batches have 6 and 2 images.
CASES = {
    "partial_last_batch": (36, 10, {"weights": True}),
    "monitored": (36, 10, MONITORED),
    "pipeline": (68, 20, {"pipeline": True, "monitor": True}),
    "batch_norm": (38, 12, {"batch_norm": True, "evaluate": True}),
}

path, case = sys.argv[1:]
results = {}
for devices in (1, 2):
    used = keras.distribution.list_devices()[:devices]
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=used)
    )
    if case == "averages":
        results[devices] = train_averages(None)
    else:
        count, batch_size, options = CASES[case]
        results[devices] = train(None, count, batch_size, **options)
pathlib.Path(path).write_text(json.dumps(results))

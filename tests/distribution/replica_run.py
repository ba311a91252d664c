"""Trains the same model on one and on two logical CPU devices.

Run by `test_two_replicas.py` as a process of its own, because logical devices
must be set up before TensorFlow starts: `replica_run.py RESULTS.json CASE...`.
"""

import json
import pathlib
import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from training_case import train  # noqa: E402
from training_case import train_averages  # noqa: E402
from training_case import train_with_awp  # noqa: E402

from keras_wake import backend  # noqa: E402

ALONE = tf.distribute.MirroredStrategy(["CPU:0"])


def awp(strategy, reassigns):
    """Where one replica is that of a strategy as well."""
    return train_with_awp(strategy or ALONE, reassigns)


NORM = {"batch_norm": True, "synchronized": True}
SHARED_NORM = {**NORM, "attack_training": True}
ALL = {"weights": True, "monitor": True, "evaluate": True}
WORKERS = {"weights": True, "evaluate": True, **NORM}
# name: (numbers of replicas, what is called, arguments, options). Where it is
# `train`, the arguments are the number of images and the size of a batch.
CASES = {
    "uneven_last_batch": ((1, 2), train, (39, 10), {"weights": True}),
    "single_image_last": ((1, 2), train, (37, 12), ALL),
    "workers": ((2,), train, (39, 10), WORKERS),
    # Four batches in each epoch: three steps, and one.
    "several_steps": ((1, 2), train, (39, 10), {"steps_per_execution": 3}),
    # 20, 20, 20 and 9 images for training, 20 and 1 for validation.
    "pipeline": ((1, 2), train, (69, 20), {"pipeline": True, "monitor": True}),
    "float16": ((2,), train, (20, 10), {"policy": "mixed_float16"}),
    "batch_norm": ((1, 2), train, (37, 12), NORM),
    "batch_norm_alone": ((2,), train, (25, 12), {"batch_norm": True}),
    # To be compared with `several_steps` on one.
    "xla": ((2,), train, (39, 10), {"xla": True}),
    "accumulating": ((2,), train, (20, 10), {"accumulate": 2}),
    "norm_in_attack": ((2,), train, (37, 12), SHARED_NORM),
    "nan": ((2,), train, (24, 12), {"nan": True}),
    "averages": ((1, 2), train_averages, (), {}),
    "awp": ((1, 2), awp, (), {"reassigns": False}),
    "awp_reassigning": ((1, 2), awp, (), {"reassigns": True}),
}

jit_by_default = backend.tensorflow.jit_by_default
path, *names = sys.argv[1:]
results = {}
# One for all cases: strategies of one process share the numbers of their
# collective operations, and a second one would meet those of the first.
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name in names:
    numbers, function, arguments, options = CASES[name]
    for replicas in numbers:
        try:
            used = strategy if replicas == 2 else None
            result = function(used, *arguments, **options)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        results[f"{name}_{replicas}"] = result
        backend.tensorflow.jit_by_default = jit_by_default
pathlib.Path(path).write_text(json.dumps(results))

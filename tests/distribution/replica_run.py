"""Trains the same model on one and on two logical CPU devices.

Run by `test_two_replicas.py` as a process of its own, because logical devices
must be set up before TensorFlow starts: `replica_run.py RESULTS.json CASE...`.
"""

import json
import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from training_case import train  # noqa: E402

# name: (numbers of replicas, images, batch size, options)
CASES = {
    "uneven_last_batch": ((1, 2), 39, 10, {"weights": True}),
    "single_image_last": (
        (1, 2),
        37,
        12,
        {"weights": True, "monitor": True, "evaluate": True},
    ),
    "workers": (
        (2,),
        39,
        10,
        {"weights": True, "batch_norm": True, "synchronized": True},
    ),
    # 20, 20, 20 and 9 images for training, 20 and 1 for validation.
    "pipeline": ((1, 2), 69, 20, {"pipeline": True}),
    "float16": ((2,), 20, 10, {"policy": "mixed_float16"}),
    "batch_norm": ((1, 2), 37, 12, {"batch_norm": True, "synchronized": True}),
    "batch_norm_alone": ((2,), 25, 12, {"batch_norm": True}),
    "nan": ((2,), 24, 12, {"nan": True}),
}


def main(path, *names):
    results = {}
    # One for all cases: strategies of one process share the numbers of their
    # collective operations, and a second one would meet those of the first.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names:
        numbers, *arguments = CASES[name]
        for replicas in numbers:
            try:
                result = train(strategy if replicas == 2 else None, *arguments)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            results[f"{name}_{replicas}"] = result
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

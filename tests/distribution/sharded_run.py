"""Trains with weights that are divided among host devices of JAX.

`sharded_run.py RESULTS.json FOLDER MESH [STEP]`: MESH is `1`, one device, or
for example `2x2`, two shares of a batch and weights divided in two. FOLDER is
for backup and checkpoints. With STEP, the process kills itself after so many
steps. Run by `test_divided_weights.py` as a process of its own, because
`XLA_FLAGS` must be set before JAX starts.
"""

import json
import math
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np
from training_case import classifier
from training_case import numpy_of
from training_case import train

import keras_wake as kw
from keras_wake.training import teacher_copy

path, folder, mesh, *step = sys.argv[1:]


def distribution():
    shape = tuple(map(int, mesh.split("x")))
    devices = keras.distribution.list_devices()[: math.prod(shape)]
    layout = keras.distribution.LayoutMap(
        keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)
    )
    layout[".*conv2d.*kernel"] = (None, None, None, "model")
    layout[".*conv2d.*bias"] = ("model",)
    layout[".*dense.*kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout)


def parts(variables):
    """For each variable, its size and that of the part on a device."""
    return [
        (v.value.size, v.value.addressable_shards[0].data.size)
        for v in variables
    ]


def copied_through_a_file(network):
    """The teacher of a network whose configuration does not make a copy."""
    teacher_copy._cloned = teacher_copy._saved_and_loaded
    return teacher_copy.copy_of(network, (0, 1))


if mesh != "1":
    keras.distribution.set_distribution(distribution())
options = {"die_at": int(step[0])} if step else {}
# The last batches have 8 and 2 images, so that two shares divide them.
results = train(
    None, 38, 12, folder=folder, weights=True, evaluate=True, **options
)
loaded = keras.models.load_model(pathlib.Path(folder, "best.keras"))
network = loaded.robust_classifier
images = np.random.default_rng(0).random((4, 4, 4, 1), np.float32)
network.save(pathlib.Path(folder, "robust.keras"))
same = classifier(False, False)
results |= {
    "student_parts": parts(loaded.classifier.variables),
    "teacher_parts": parts(loaded.teacher.variables),
    "momentum_parts": parts(loaded.optimizer.variables[2:]),
    "copy_parts": parts(copied_through_a_file(same).variables),
    "loaded": numpy_of(loaded.teacher.weights),
    "logits": np.asarray(network(images)).tolist(),
    "robust_accuracy": kw.evaluation.robust_accuracy(
        network,
        (images, np.arange(4) % 3),
        kw.attacks.PGD(epsilon=0.03, steps=2),
        checks=False,
        verbose=0,
    ).robust_accuracy,
}
pathlib.Path(path).write_text(json.dumps(results))

"""Replicas whose batch norm differs go on each with its own."""

import json
import os
import pathlib

import keras
import pytest
from small import output_of

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import json
import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
import keras
import numpy as np
import small

import keras_wake as kw
from keras_wake import backend
from keras_wake.checkpoint import snapshot


def run(folder, *callbacks):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        network = small.network(
            lambda: [
                keras.layers.Reshape(small.SHAPE),
                keras.layers.Conv2D(4, 3),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Flatten(),
            ]
        )
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        attack = kw.attacks.PGD(epsilon=0.1, steps=1)
        model = small.wake(network, attack, optimizer)
    backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
    options = {"count": 16, "batch_size": 8, "epochs": 2}
    try:
        small.fit(model, kw.EMATeacher(0.5), backup, *callbacks, **options)
    except KeyboardInterrupt:
        return run(folder)
    return model


broken = run(sys.argv[1] + "/broken", small.Interrupt(1, batch=0))
whole = run(sys.argv[1] + "/whole")
values = zip(snapshot.take(broken), snapshot.take(whole), strict=True)
mean = whole.classifier.get_layer("norm").moving_mean
first, second = map(backend.to_numpy, backend.replicas_of(mean))
print(
    json.dumps(
        {
            "same": [bool(np.array_equal(*pair)) for pair in values],
            "replicas differ": bool((first != second).any()),
        }
    )
)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="replicas of `tf.distribute`",
)
def test_replicas_go_on_each_with_its_own_statistics(tmp_path):
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": path}
    printed = output_of("-c", SCRIPT, tmp_path, env=environment)
    found = json.loads(printed.splitlines()[-1])
    assert found["replicas differ"]
    assert all(found["same"])

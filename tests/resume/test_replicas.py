"""Replicas whose batch norm differs go on each with its own."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

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

import keras_wake as kw
from keras_wake import backend
from keras_wake.checkpoint import snapshot


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1:
            raise KeyboardInterrupt


def run(folder, *callbacks):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        classifier = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Conv2D(4, 3),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        attack = kw.attacks.PGD(epsilon=0.1, steps=1)
        model = kw.WakeModel(classifier, attack, eval_attack=attack)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    x = np.random.default_rng(0).random((16, 4, 4, 1), np.float32)
    y = np.arange(16, dtype="int32") % 3
    backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
    try:
        model.fit(
            x,
            y,
            batch_size=8,
            shuffle=False,
            epochs=2,
            verbose=0,
            callbacks=[kw.EMATeacher(0.5), backup, *callbacks],
        )
    except KeyboardInterrupt:
        return run(folder)
    return model


broken = run(sys.argv[1] + "/broken", Stop())
whole = run(sys.argv[1] + "/whole")
values = zip(snapshot.take(broken), snapshot.take(whole), strict=True)
mean = whole.classifier.layers[1].moving_mean
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
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["replicas differ"]
    assert all(found["same"])

"""Trains with AWP on one and on two replicas of TensorFlow.

Run by `test_weight_perturbation_of_replicas.py` as a process of its own:
`weight_perturbation_run.py RESULTS.json`.
"""

import json
import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_wake as kw  # noqa: E402
from keras_wake import backend  # noqa: E402


def train(replicas, reassigns):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 4, 4, 1), np.float32), np.arange(32) % 4
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(replicas)]
    )
    with strategy.scope():
        hidden = keras.layers.Dense(8, activation="tanh")
        if reassigns:
            hidden = keras.layers.SpectralNormalization(hidden)
        network = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Flatten(),
                hidden,
                keras.layers.Dense(4),
            ]
        )
        model = kw.WakeModel(
            network,
            kw.attacks.PGD(epsilon=0.1, steps=2, random_start=False),
            objective=kw.objectives.AWP("at", gamma=0.1),
        )
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    log = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return {
        "loss": log.history["loss"],
        # Of each replica.
        "weights": [
            [backend.to_numpy(own).tolist() for own in values]
            for values in map(backend.replicas_of, network.variables)
        ],
    }


results = {
    f"{reassigns}_{replicas}": train(replicas, reassigns)
    for reassigns in (False, True)
    for replicas in (1, 2)
}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(results, file)

"""Trains the same model on one and on two logical CPU devices.

Run by `test_two_replicas.py` as a process of its own, because logical devices
must be set up before TensorFlow starts: `replica_run.py RESULTS.json CASE...`.
"""

import contextlib
import json
import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

import keras  # noqa: E402

import keras_wake as kw  # noqa: E402

# name: (numbers of replicas, images, batch size, options)
CASES = {
    "uneven_last_batch": ((1, 2), 39, 10, {"weights": True}),
    "single_image_last": ((1, 2), 37, 12, {"monitor": True, "evaluate": True}),
    "batch_norm": ((1, 2), 37, 12, {"batch_norm": True, "synchronized": True}),
    "batch_norm_alone": ((2,), 25, 12, {"batch_norm": True}),
    "nan": ((2,), 24, 12, {"nan": True}),
}


def classifier(batch_norm, synchronized):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(6, 3)]
    if batch_norm:
        layers.append(
            keras.layers.BatchNormalization(synchronized=synchronized)
        )
    layers += [
        keras.layers.ELU(),
        keras.layers.Flatten(),
        keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(1e-2)),
    ]
    return keras.Sequential(layers)


def data(count, one_hot):
    """Three noisy patterns that a few epochs learn, but not at once."""
    rng = np.random.default_rng(0)
    patterns = rng.random((3, 4, 4, 1))
    y = rng.integers(0, 3, count)
    x = 0.6 * patterns[y] + 0.4 * rng.random((count, 4, 4, 1))
    x = x.astype("float32")
    return x, np.eye(3, dtype="float32")[y] if one_hot else y


def numpy_of(weights):
    return [
        np.asarray(keras.ops.convert_to_tensor(w)).tolist() for w in weights
    ]


def train(strategy, count, batch_size, options):
    with strategy.scope() if strategy else contextlib.nullcontext():
        student = classifier(
            options.get("batch_norm", False),
            options.get("synchronized", False),
        )
        pgd = kw.attacks.PGD(epsilon=0.03, steps=2, random_start=False)
        model = kw.WakeModel(
            student,
            pgd,
            eval_attack=pgd,
            schedule=kw.schedules.DistillationRamp(1, 3, final=0.9),
        )
        model.compile(
            keras.optimizers.SGD(0.03, momentum=0.9),
            metrics=["accuracy"],
        )
    weighted = options.get("weights", False)
    x, y = data(count, weighted)
    weights = np.linspace(0.2, 2, count) if weighted else None
    if options.get("nan"):
        # The last image: in the share of the second replica.
        x[-1] = np.nan
    attribution = kw.callbacks.CrossClassAttribution()
    callbacks = [kw.callbacks.EMATeacher(decay=0.5), attribution]
    if options.get("monitor"):
        callbacks.append(
            kw.callbacks.CatastrophicOverfitMonitor(
                samples=16, action="rollback"
            )
        )
    log = model.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=batch_size,
        shuffle=False,
        epochs=4,
        validation_data=data(count, weighted),
        verbose=0,
        callbacks=callbacks,
    )
    result = {
        "history": log.history,
        "student": numpy_of(student.weights),
        "teacher": numpy_of(model.teacher.weights),
        "steps": int(numpy_of([model.train_steps])[0]),
        "updates": int(numpy_of([model.teacher_updates])[0]),
        "correlation": attribution.correlation.tolist(),
    }
    if options.get("evaluate"):
        result["evaluated"] = model.evaluate(
            *data(count, weighted),
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )
    return result


def main(path, *names):
    results = {}
    # One for all cases: strategies of one process share the numbers of their
    # collective operations, and a second one would meet those of the first.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names or CASES:
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

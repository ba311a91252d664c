"""One process of several that share evaluations, or one alone.

`sharing_run.py BACKEND RESULTS.json INDEX ADDRESSES FOLDER`, with FOLDER for
the state of an evaluation. Run by `test_sharing.py`.
"""

import contextlib
import io
import json
import os
import pathlib
import sys

BACKEND, PATH, INDEX, ADDRESSES, FOLDER = sys.argv[1:]
os.environ["KERAS_BACKEND"] = BACKEND
ALL, INDEX = ADDRESSES.split(","), int(INDEX)
scope = contextlib.nullcontext
if BACKEND == "tensorflow" and len(ALL) > 1:
    import tensorflow as tf

    task = {"type": "worker", "index": INDEX}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": ALL}, "task": task}
    )
    scope = tf.distribute.MultiWorkerMirroredStrategy().scope

import keras  # noqa: E402
import numpy as np  # noqa: E402

if BACKEND == "jax" and len(ALL) > 1:
    keras.distribution.initialize(ADDRESSES, len(ALL), INDEX)
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
elif BACKEND == "torch":
    # Of one process, too.
    import torch

    torch.distributed.init_process_group(
        "gloo", f"tcp://{ALL[0]}", world_size=len(ALL), rank=INDEX
    )

from training_case import classifier  # noqa: E402
from training_case import data  # noqa: E402

import keras_wake as kw  # noqa: E402


def with_fixed_weights(model):
    """The same on every backend."""
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.weights])
    return model


def logits():
    return keras.ops.convert_to_numpy(network(x))


# Five batches of 8, which two processes share unevenly.
x, _ = data(37, one_hot=False)
with scope():
    network = classifier(batch_norm=True, synchronized=False)
    with_fixed_weights(network)
    norm, head = network.layers[1], network.layers[-1]
    norm.set_weights([*norm.get_weights()[:3], np.linspace(0.5, 1.5, 6)])
    kernel, bias = head.get_weights()
    # All classes are predicted.
    head.set_weights([kernel, bias - logits().mean(axis=0)])
y = logits().argmax(axis=1)
y[:3] = (y[:3] + 1) % 3
PGD = kw.attacks.PGD(epsilon=0.04, steps=2, step_size=0.01)
OPTIONS = {"batch_size": 8, "verbose": 0}


def numbers(report):
    """All but what depends on time."""
    found = report.to_dict()
    del found["date"], found["seconds"]
    for attack in found["attacks"]:
        del attack["seconds"]
    return {**found, "fallen_to": report.fallen_to.tolist()}


def evaluated():
    attacks = [PGD, kw.attacks.APGD(epsilon=0.04, steps=5)]
    report = kw.evaluation.autoattack(
        network,
        (x, y),
        attacks=attacks,
        state=f"{FOLDER}/state.npz",
        return_images=True,
        **OPTIONS,
    )
    # Fewer images than processes.
    few = kw.evaluation.robust_accuracy(
        network, (x[5:6], y[5:6]), PGD, checks=False, **OPTIONS
    )
    # What the data sets of the library give to each process is a share.
    digits = kw.datasets.load("digits", batch_size=10, test_limit=30)
    with scope():
        small = with_fixed_weights(
            keras.Sequential(
                [
                    keras.Input((8, 8, 1)),
                    keras.layers.Flatten(),
                    keras.layers.Dense(10),
                ]
            )
        )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        of_digits = kw.evaluation.robust_accuracy(
            small, digits.test, PGD, checks=False, batch_size=8, verbose=1
        )
    alone = kw.evaluation.robust_accuracy(
        network, (x, y), PGD, checks=False, shard=(0, 1), **OPTIONS
    )
    return {
        "report": numbers(report),
        "images": report.images.tolist(),
        "few": numbers(few),
        "digits": numbers(of_digits),
        "said": said.getvalue(),
        "alone": alone.fallen_to.tolist(),
    }


def analysed():
    matrices = {
        mode: kw.attribution.correlation_matrix(
            network, (x, y), PGD, batch_size=8, mode=mode
        ).tolist()
        for mode in ("class", "instance")
    }
    report = kw.attribution.class_report(network, (x, y), PGD, batch_size=8)
    seen = [
        example.adversarial.tolist()
        for pair in report.pairs
        for examples in pair.examples
        for example in examples
    ]
    return {**matrices, "classes": report.to_dict(), "seen": seen}


def refused():
    """What the processes say if they are given different things."""
    errors = []
    other = (x + 0.01 * INDEX).clip(0, 1), y
    for call in (
        lambda: kw.evaluation.robust_accuracy(network, other, PGD, **OPTIONS),
        lambda: kw.attribution.class_report(network, other, PGD, batch_size=8),
        lambda: kw.evaluation.robust_accuracy(
            network, (x, y), PGD, seed=INDEX, **OPTIONS
        ),
    ):
        try:
            call()
        except ValueError as error:
            errors.append(str(error))
    return errors


def with_other_weights():
    """The moving statistics of each process are its own."""
    if BACKEND == "jax":
        return None  # Its variables are those of all processes.
    *weights, variance = norm.get_weights()
    norm.set_weights([*weights, variance * (1 + 0.5 * INDEX)])
    report = kw.evaluation.robust_accuracy(
        network, (x, y), PGD, checks=False, **OPTIONS
    )
    matrix = kw.attribution.correlation_matrix(
        network, (x, y), PGD, batch_size=8
    )
    return {
        "report": numbers(report),
        "matrix": matrix.tolist(),
        "own": float(logits().sum()),
    }


results = {
    **evaluated(),
    **analysed(),
    "refused": refused(),
    "other_weights": with_other_weights(),
}
pathlib.Path(PATH).write_text(json.dumps(results))

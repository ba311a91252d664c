"""One worker of several: `worker_run.py RESULTS.json FOLDER [STEP | more]`.

Run by `test_two_workers.py`, once for each worker, with `TF_CONFIG` set. With
STEP, the process kills itself after so many steps; with `more` it trains in
other cases instead.
"""

import json
import pathlib
import sys
from unittest import mock

import tensorflow as tf

# Before anything else that touches TensorFlow, as it demands.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

from training_case import train  # noqa: E402
from training_case import train_averages  # noqa: E402

from keras_wake.checkpoint import archive  # noqa: E402

NORM = {"batch_norm": True, "synchronized": True}


def undisturbed(folder, die_at=None):
    options = {"weights": True, "evaluate": True, "folder": folder, **NORM}
    if die_at is not None:
        options["die_at"] = int(die_at)
    write = mock.Mock(wraps=archive.write)
    with mock.patch.object(archive, "write", write):
        results = train(strategy, 39, 10, **options)
    return {**results, "backups": write.call_count}


def more():
    return {
        "pipeline": train(strategy, 69, 20, pipeline=True, monitor=True),
        "averages": train_averages(strategy),
        # Each worker's batch norm has moving averages of its own.
        "own_norm": train(strategy, 39, 10, batch_norm=True, monitor=True),
    }


path, folder, *option = sys.argv[1:]
results = more() if option == ["more"] else undisturbed(folder, *option)
results["is_chief"] = strategy.extended.should_checkpoint
pathlib.Path(path).write_text(json.dumps(results))

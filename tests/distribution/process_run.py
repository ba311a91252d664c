"""One JAX process of several.

`process_run.py RESULTS.json INDEX ADDRESSES FOLDER [STEP | more]`, with FOLDER
for its backup. With STEP, the process kills itself after so many steps; with
`more` it trains in other cases instead. Run by `test_two_devices.py`, once for
each process.
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras

path, index, addresses, folder, *option = sys.argv[1:]
count = addresses.count(",") + 1
keras.distribution.initialize(addresses, count, int(index))
keras.distribution.set_distribution(
    keras.distribution.DataParallel(auto_shard_dataset=False)
)

from training_case import classifier  # noqa: E402
from training_case import train  # noqa: E402
from training_case import train_averages  # noqa: E402

import keras_wake as kw  # noqa: E402


def more():
    return {
        "averages": train_averages(None),
        "pipeline": train(None, 68, 20, pipeline=True, monitor=True),
        "divided": divided(),
    }


def divided():
    """What is said of weights that are divided among processes."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*dense.*kernel"] = ("model", None)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout)
    )
    network = classifier(False, False)
    try:
        kw.WakeModel(network, kw.attacks.PGD(epsilon=0.03))
    except ValueError as error:
        return str(error)
    return None


if option == ["more"]:
    results = more()
else:
    options = {"weights": True, "monitor": True, "evaluate": True}
    if option:
        options["die_at"] = int(option[0])
    results = train(None, 36, 10, folder=folder, **options)
pathlib.Path(path).write_text(json.dumps(results))

"""One JAX process of several.

`process_run.py RESULTS.json INDEX ADDRESSES FOLDER`, with FOLDER for its
backup. Run by `test_two_devices.py`, once for each process.
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras

path, index, addresses, folder = sys.argv[1:]
count = addresses.count(",") + 1
keras.distribution.initialize(addresses, count, int(index))
keras.distribution.set_distribution(
    keras.distribution.DataParallel(auto_shard_dataset=False)
)

from training_case import train  # noqa: E402

options = {"weights": True, "monitor": True, "evaluate": True}
results = train(None, 36, 10, folder=folder, **options)
pathlib.Path(path).write_text(json.dumps(results))

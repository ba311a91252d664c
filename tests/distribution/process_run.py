"""One JAX process of several.

`process_run.py RESULTS.json INDEX ADDRESSES [FOLDER]`: with FOLDER, it keeps
its backup there.

Run by `test_two_devices.py`, once for each process.
"""

import json
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras

index, addresses = int(sys.argv[2]), sys.argv[3]
keras.distribution.initialize(addresses, addresses.count(",") + 1, index)
keras.distribution.set_distribution(
    keras.distribution.DataParallel(auto_shard_dataset=False)
)

from training_case import train  # noqa: E402


def main(path):
    options = {"weights": True, "monitor": True, "evaluate": True}
    if sys.argv[4:]:
        options["folder"] = sys.argv[4]
    results = train(None, 36, 10, options)
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1])

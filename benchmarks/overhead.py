"""What a step of `WakeModel` costs beside plain Keras, in one run.

    pip install -e '.[tensorflow]' jax torch==2.13.0
    python benchmarks/overhead.py --output benchmarks/results/overhead.json

The network is small, so that what surrounds it shows: 30 Dense layers of 64
units, batches of 32. `WakeModel(objective="standard")` and plain Keras train
equal networks with the same loss, the same metrics and SGD with momentum. They
take turns, one epoch of 200 batches each; the ratio is the median over the
turns, and of each turn's seconds the smallest is shown. Each backend runs in a
process of its own. `reads` is how often values were brought to the host in an
epoch.
"""

import argparse
import json
import pathlib
import statistics
import time

from _shared import environment
from _shared import measure
from _shared import report
from _shared import where_measured
from _shared import write

LAYERS, UNITS, BATCH, BATCHES = 30, 64, 32, 200
BACKENDS = ("tensorflow", "jax", "torch")


def network():
    """An MLP for images of 8 x 8."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    for _ in range(LAYERS - 1):
        x = keras.layers.Dense(UNITS, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def optimizer():
    """SGD, as for most robust networks."""
    import keras

    return keras.optimizers.SGD(1e-3, momentum=0.9)


def plain(steps_per_execution):
    """The network, trained by Keras alone."""
    import keras

    model = network()
    model.compile(
        optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # As `WakeModel` chooses on a CPU.
        jit_compile=keras.backend.backend() == "jax",
        steps_per_execution=steps_per_execution,
    )
    return model


def wake(steps_per_execution):
    """The same training by a `WakeModel`."""
    import keras_wake as kw

    model = kw.WakeModel(network(), attack=None, objective="standard")
    model.compile(optimizer(), steps_per_execution=steps_per_execution)
    return model


def run(turns: int, steps_per_execution: int) -> None:
    """Times both contenders in turns, and counts what they read."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH * BATCHES, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 10, len(x)).astype("int32")
    models = {
        "keras": plain(steps_per_execution),
        "keras-wake": wake(steps_per_execution),
    }
    from keras.src import backend

    counted = {"reads": 0}
    read = backend.convert_to_numpy

    def counting(value):
        counted["reads"] += 1
        return read(value)

    backend.convert_to_numpy = counting
    seconds = {name: [] for name in models}
    reads = {}
    for turn in range(turns + 1):
        for name, model in models.items():
            counted["reads"] = 0
            begin = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, verbose=0)
            if turn:  # The first epoch compiles.
                seconds[name].append(time.perf_counter() - begin)
            reads[name] = counted["reads"]
    ratios = [
        ours / theirs
        for ours, theirs in zip(
            seconds["keras-wake"], seconds["keras"], strict=True
        )
    ]
    report(
        ratio=round(statistics.median(ratios), 3),
        milliseconds={
            name: round(1000 * min(values) / BATCHES, 3)
            for name, values in seconds.items()
        },
        reads=reads,
    )


def main() -> None:
    """Measures each backend in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--steps-per-execution", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        run(**args.measure)
        return
    spec = {
        "turns": args.turns,
        "steps_per_execution": args.steps_per_execution,
    }
    result = {
        **where_measured("keras", "tensorflow", "jax", "torch"),
        **spec,
        "backends": {},
    }
    for backend in args.backends:
        found, failure = measure(__file__, spec, environment(backend), 600)
        result["backends"][backend] = found[-1] if found else failure
        print(backend, result["backends"][backend], flush=True)
    if args.output:
        write(args.output, result)


if __name__ == "__main__":
    main()

"""Time of AutoAttack, against that of torchattacks on the same network.

    python benchmarks/autoattack.py \
        --output benchmarks/results/autoattack.json

A small network is trained adversarially on the 8×8 digits of scikit-learn with
keras-wake. Its weights are copied into a PyTorch twin, and the two are compared
on the test images: logits must agree. Then both libraries run the standard
version (APGD-CE, APGD-T, FAB-T, Square with 5,000 queries) on the same images,
in processes of their own that take turns. The time is that of one call from
images to robust accuracy. It includes the compiling of keras-wake, but not
importing and training. Both use the same numbers of steps, targets and queries,
and put all images that are not broken yet into one batch.

Both use the cores that the process may use. The threads of TensorFlow are set
up as in the examples.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

from _shared import commit
from _shared import environment
from _shared import measure
from _shared import report
from _shared import table
from _shared import versions
from _shared import write

CONTENDERS = ("keras-wake", "torchattacks")
EPSILON = {"linf": 0.1, "l2": 0.8}
WIDTHS = (16, 32)


def keras_network():
    """Two convolutions of stride 2 and a Dense layer on all their outputs."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(
                layers.Conv2D(
                    width, 3, strides=2, padding="same", activation="relu"
                )
                for width in WIDTHS
            ),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def torch_network(weights):
    """The same in PyTorch, which puts channels before pixels."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = (1, *WIDTHS)
            self.convolutions = nn.ModuleList(
                nn.Conv2d(a, b, 3, 2) for a, b in itertools.pairwise(inputs)
            )
            self.dense = nn.Linear(4 * WIDTHS[-1], 10)

        def forward(self, x):
            for convolution in self.convolutions:
                # As Keras pads: one row and column, at the end.
                x = nn.functional.pad(x, (0, 1, 0, 1))
                x = torch.relu(convolution(x))
            return self.dense(x.permute(0, 2, 3, 1).flatten(1))

    network = Network()
    names = [
        f"convolutions.{number}.{kind}"
        for number in range(len(WIDTHS))
        for kind in ("weight", "bias")
    ]
    state = {}
    for name, value in zip(
        [*names, "dense.weight", "dense.bias"], weights, strict=True
    ):
        tensor = torch.tensor(value)
        if tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)
        elif tensor.ndim == 2:
            tensor = tensor.T
        state[name] = tensor.contiguous()
    network.load_state_dict(state)
    return network.eval()


def train(path: str, epochs: int, norm: str) -> None:
    """Trains the network, and writes weights, images and logits."""
    import keras
    import numpy as np

    import keras_wake as kw

    keras.utils.set_random_seed(0)
    splits = kw.datasets.load("digits", batch_size=50)
    x, y = map(np.concatenate, zip(*splits.train, strict=True))
    x_test, y_test = map(np.concatenate, zip(*splits.test, strict=True))
    network = keras_network()
    attack = kw.attacks.PGD(norm, epsilon=EPSILON[norm], steps=5)
    model = kw.WakeModel(network, attack)
    model.compile(keras.optimizers.Adam(0.003))
    model.fit(x, y, epochs=epochs, batch_size=50, verbose=0)
    # The digits have 1,797 images: missing test images are training images.
    x, y = np.concatenate([x_test, x]), np.concatenate([y_test, y])
    weights = {f"weight_{n}": w for n, w in enumerate(network.get_weights())}
    np.savez(path, x=x, y=y, logits=network.predict(x, verbose=0), **weights)
    report(trained=True)


def run(contender: str, path: str, samples: int, norm: str, seed: int) -> None:
    """One evaluation; the entry point of a process."""
    import numpy as np

    with np.load(path) as file:
        found = dict(file)
    x, y = found["x"][:samples], found["y"][:samples]
    count = sum(name.startswith("weight_") for name in found)
    weights = [found[f"weight_{n}"] for n in range(count)]
    task = {"x": x, "y": y, "weights": weights, "logits": found["logits"]}
    if contender == "keras-wake":
        run_keras_wake(task, norm, seed)
    else:
        run_torchattacks(task, norm, seed)


def run_keras_wake(task, norm: str, seed: int) -> None:
    """The evaluation by keras-wake."""
    import keras_wake as kw

    network = keras_network()
    network.set_weights(task["weights"])
    begin = time.perf_counter()
    found = kw.evaluation.autoattack(
        network,
        (task["x"], task["y"]),
        epsilon=EPSILON[norm],
        norm=norm,
        batch_size=len(task["x"]),
        seed=seed,
        checks=False,
        verbose=0,
    )
    report(
        seconds=time.perf_counter() - begin,
        clean_accuracy=found.clean_accuracy,
        robust_accuracy=found.robust_accuracy,
        attacks={a.name: [a.accuracy, a.seconds] for a in found.attacks},
    )


def run_torchattacks(task, norm: str, seed: int) -> None:
    """The evaluation by torchattacks."""
    import numpy as np
    import torch
    import torchattacks

    network = torch_network(task["weights"])
    x = torch.tensor(task["x"]).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(task["y"]).long()
    with torch.no_grad():
        logits = network(x).numpy()
    difference = float(np.abs(logits - task["logits"][: len(x)]).max())
    if difference > 1e-3:
        raise SystemExit(f"The twin's logits differ by {difference}.")
    options = {
        "norm": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": EPSILON[norm],
        "seed": seed,
    }
    # Its `AutoAttack` takes 10 steps where 100 are published.
    attack = torchattacks.MultiAttack(
        [
            torchattacks.APGD(network, steps=100, loss="ce", **options),
            torchattacks.APGDT(network, steps=100, n_classes=10, **options),
            torchattacks.FAB(
                network,
                steps=100,
                multi_targeted=True,
                n_classes=10,
                **options,
            ),
            torchattacks.Square(
                network, n_queries=5000, resc_schedule=False, **options
            ),
        ]
    )
    begin = time.perf_counter()
    adversarial = attack(x, y)
    with torch.no_grad():
        right = (network(adversarial).argmax(1) == y).float().mean().item()
    report(
        seconds=time.perf_counter() - begin,
        clean_accuracy=float((logits.argmax(1) == task["y"]).mean()),
        robust_accuracy=right,
        largest_difference=difference,
    )


def compare(path: str, args) -> dict:
    """All runs of both contenders, in turns."""
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for turn in range(args.turns):
        for name in CONTENDERS:
            spec = {
                "contender": name,
                "path": path,
                "samples": args.samples,
                "norm": args.norm,
                "seed": turn,
            }
            found, failure = measure(
                __file__, spec, environment(args.backend), limit=args.limit
            )
            if failure:
                sys.exit(f"{name}: {failure}")
            runs[name].append(found[-1])
    result: dict = {"runs": runs}
    for name, measured in runs.items():
        result[name] = {
            key: statistics.median(one[key] for one in measured)
            for key in ("seconds", "clean_accuracy", "robust_accuracy")
        }
    ours, theirs = (result[name]["seconds"] for name in CONTENDERS)
    result["ratio"] = ours / theirs
    return result


def main() -> None:
    """Trains, compares, and prints a table and the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--norm", choices=tuple(EPSILON), default="linf")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        task = train if "epochs" in args.measure else run
        task(**args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "network.npz")
        spec = {"path": path, "epochs": args.epochs, "norm": args.norm}
        _, failure = measure(
            __file__, spec, environment(args.backend), limit=args.limit
        )
        if failure:
            sys.exit(f"training: {failure}")
        result = compare(path, args)
    rows = [
        [
            name,
            f"{result[name]['seconds']:.1f}",
            f"{100 * result[name]['clean_accuracy']:.1f}",
            f"{100 * result[name]['robust_accuracy']:.1f}",
        ]
        for name in CONTENDERS
    ]
    print(table(["library", "seconds", "clean, %", "robust, %"], rows))
    print(f"ratio of times {result['ratio']:.2f}")
    record = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "load": os.getloadavg(),
        "commit": commit(),
        "versions": versions("keras", args.backend, "torch", "torchattacks"),
        "samples": args.samples,
        "norm": args.norm,
        "epsilon": EPSILON[args.norm],
        "turns": args.turns,
        **result,
    }
    if args.output:
        write(args.output, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()

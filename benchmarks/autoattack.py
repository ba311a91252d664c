"""Time of AutoAttack and of its attacks, against the reference in PyTorch.

    python benchmarks/autoattack.py --data cifar10 --data-dir FOLDER \\
        --samples 300 --output benchmarks/results/autoattack_cifar10.json

A small network is trained adversarially with keras-wake, and kept in
`~/.cache/keras-wake/benchmarks` (below `XDG_CACHE_HOME`, if that is set). Its
weights are copied into a PyTorch twin; the logits of both must agree. Then
keras-wake and torchattacks, whose attacks are copies of the reference
implementation, run each attack by itself (`apgd-ce`, `apgd-t`, `fab-t`,
`square`) and the standard version of all four (`ensemble`) on the same images,
in processes of their own that take turns. The time is that of one call from
images to robust accuracy. It includes the compiling of keras-wake, but not
importing and training. Both use the same numbers of steps, targets and queries,
and put all images that are not broken yet into one batch.

Both may use all cores. `--threads examples` sets up the threads of TensorFlow
as the README advises, `--threads default` leaves them alone.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

from _autoattack_network import EPOCHS
from _autoattack_network import EPSILON
from _autoattack_network import keras_network
from _autoattack_network import torch_network
from _autoattack_network import train
from _shared import environment
from _shared import measure
from _shared import report
from _shared import table
from _shared import where_measured
from _shared import write

CONTENDERS = ("keras-wake", "torchattacks")
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square", "ensemble")
# What both contenders report, and of which the median is taken.
MEASURED = ("seconds", "clean_accuracy", "robust_accuracy")


def run(contender: str, path: str, samples: int, **settings) -> None:
    """One evaluation; the entry point of a process."""
    import numpy as np

    with np.load(path) as file:
        found = dict(file)
    task = {name: found[name][:samples] for name in ("x", "y", "logits")}
    count = sum(name.startswith("weight_") for name in found)
    task["weights"] = [found[f"weight_{n}"] for n in range(count)]
    if contender == "keras-wake":
        run_keras_wake(task, **settings)
    else:
        run_torchattacks(task, **settings)


def run_keras_wake(task, attack: str, data: str, norm: str, seed: int) -> None:
    """The evaluation by keras-wake."""
    import keras_wake as kw

    attacks = kw.attacks
    threat = {"norm": norm, "epsilon": EPSILON[data][norm]}
    every = {
        "apgd-ce": attacks.APGD(**threat),
        "apgd-t": attacks.APGD(loss="dlr_targeted", **threat),
        "fab-t": attacks.FAB(**threat),
        "square": attacks.Square(**threat),
    }
    network = keras_network(data)
    network.set_weights(task["weights"])
    begin = time.perf_counter()
    found = kw.evaluation.autoattack(
        network,
        (task["x"], task["y"]),
        attacks=None if attack == "ensemble" else [every[attack]],
        **threat,
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


def run_torchattacks(
    task, attack: str, data: str, norm: str, seed: int
) -> None:
    """The evaluation by torchattacks."""
    import numpy as np
    import torch
    import torchattacks

    network = torch_network(data, task["weights"])
    x = torch.tensor(task["x"]).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(task["y"]).long()
    with torch.no_grad():
        logits = network(x).numpy()
    difference = float(np.abs(logits - task["logits"]).max())
    if difference > 1e-3:
        raise SystemExit(f"The twin's logits differ by {difference}.")
    options = {
        "norm": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": EPSILON[data][norm],
        "seed": seed,
    }
    targets = {"n_classes": 10, "steps": 100}
    # Its `AutoAttack` takes 10 steps where 100 are published.
    every = {
        "apgd-ce": torchattacks.APGD(network, steps=100, loss="ce", **options),
        "apgd-t": torchattacks.APGDT(network, **targets, **options),
        "fab-t": torchattacks.FAB(
            network, multi_targeted=True, **targets, **options
        ),
        "square": torchattacks.Square(
            network, n_queries=5000, resc_schedule=False, **options
        ),
    }
    begin = time.perf_counter()
    clean = torch.tensor(logits).argmax(1) == y
    ensemble = torchattacks.MultiAttack(list(every.values()))
    chosen = ensemble if attack == "ensemble" else every[attack]
    # As the reference: images that are wrong without an attack are left out.
    adversarial = chosen(x[clean], y[clean])
    with torch.no_grad():
        right = network(adversarial).argmax(1) == y[clean]
    report(
        seconds=time.perf_counter() - begin,
        clean_accuracy=float(clean.float().mean()),
        robust_accuracy=float(right.sum() / len(y)),
        largest_difference=difference,
    )


def compare(attack: str, path: pathlib.Path, args, variables: dict) -> dict:
    """All runs of an attack by both contenders, in turns."""
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for turn in range(args.turns):
        # Neither is always the first one.
        for name in CONTENDERS[:: 1 if turn % 2 == 0 else -1]:
            spec = {
                "contender": name,
                "path": str(path),
                "samples": args.samples,
                "attack": attack,
                "data": args.data,
                "norm": args.norm,
                "seed": turn,
            }
            found, failure = measure(__file__, spec, variables, args.limit)
            if failure:
                sys.exit(f"{attack}, {name}: {failure}")
            runs[name].append(found[-1])
    result: dict = {"runs": runs}
    for name, measured in runs.items():
        result[name] = {
            key: statistics.median(one[key] for one in measured)
            for key in MEASURED
        }
    ours, theirs = (
        [one["seconds"] for one in runs[name]] for name in CONTENDERS
    )
    # The median of the ratios: what disturbs a turn disturbs both sides.
    result["ratio"] = statistics.median(
        a / b for a, b in zip(ours, theirs, strict=True)
    )
    return result


def kept_network(args, variables: dict) -> pathlib.Path:
    """The file with the trained network, which is trained if there is none."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(cache) / "keras-wake" / "benchmarks"
    path = folder / f"autoattack-{args.data}-{args.norm}.npz"
    if not path.exists():
        spec = {
            "path": str(path),
            "data": args.data,
            "norm": args.norm,
            "data_dir": args.data_dir,
        }
        _, failure = measure(__file__, spec, variables, args.limit)
        if failure:
            sys.exit(f"training: {failure}")
    return path


def main() -> None:
    """Trains, compares, and prints a table and the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=tuple(EPOCHS), default="digits")
    parser.add_argument("--data-dir", help="folder with the images of CIFAR-10")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument(
        "--attacks", nargs="+", choices=ATTACKS, default=ATTACKS
    )
    parser.add_argument(
        "--threads", choices=("default", "examples"), default="examples"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        spec = args.measure
        if "contender" in spec:
            run(**spec)
        else:
            train(**{**spec, "path": pathlib.Path(spec["path"])})
        return
    variables = environment(args.backend, cpu=args.threads == "examples")
    # PyTorch uses all cores unless this says otherwise.
    variables.pop("OMP_NUM_THREADS", None)
    path = kept_network(args, variables)
    results = {
        attack: compare(attack, path, args, variables)
        for attack in args.attacks
    }
    rows = []
    for attack, result in results.items():
        ours, theirs = (result[name] for name in CONTENDERS)
        rows.append(
            [
                attack,
                *(f"{side['seconds']:.1f}" for side in (ours, theirs)),
                f"{result['ratio']:.2f}",
                *(
                    f"{100 * side['robust_accuracy']:.1f}"
                    for side in (ours, theirs)
                ),
            ]
        )
    header = ["attack", "keras-wake, s", "torchattacks, s", "ratio"]
    header += [f"robust, %, {name}" for name in CONTENDERS]
    print(table(header, rows))
    record = {
        **where_measured("keras", args.backend, "torch", "torchattacks"),
        "command": " ".join(["python", *sys.argv]),
        "load": os.getloadavg(),
        "data": args.data,
        "samples": args.samples,
        "norm": args.norm,
        "epsilon": EPSILON[args.data][args.norm],
        "threads": args.threads,
        "turns": args.turns,
        "attacks": results,
    }
    if args.output:
        write(args.output, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()

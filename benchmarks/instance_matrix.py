"""Time and memory of the instance-wise matrix, compared with all N² at once.

    python benchmarks/instance_matrix.py \
        --output benchmarks/results/instance_matrix.json

The contender is plain NumPy: an (N, N) array of all cosines in float64, from
which the largest of each class are taken. Both get the same random float32
vectors (512 features, ten classes), in processes of their own that take turns.
If the (N, N) array does not fit into half of the free memory, only keras-wake
runs. Two numbers describe the memory: the peak of allocations besides the
vectors (`tracemalloc`, which sees NumPy's arrays), measured in a separate run,
and the growth of the process (its peak of resident memory). The results of both
are compared: exact means equal up to rounding.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
import tracemalloc

from _shared import commit
from _shared import environment
from _shared import measure
from _shared import report
from _shared import table
from _shared import versions
from _shared import write

FEATURES, CLASSES = 512, 10
SAMPLES = (1000, 2000, 5000, 10000)
CONTENDERS = ("keras-wake", "numpy")
MIB = 2**20


def samples(count: int):
    """Vectors and labels, the same for both."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    centres = rng.standard_normal((CLASSES, FEATURES), "float32")
    vectors = rng.standard_normal((count, FEATURES), "float32")
    vectors += centres[labels]
    return vectors, labels


def all_at_once(vectors, labels):
    """The matrix from an (N, N) array of all cosines."""
    import numpy as np

    unit = vectors.astype("float64")
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    matrix = np.empty((CLASSES, CLASSES))
    for j in range(CLASSES):
        largest = cosines[:, labels == j].max(axis=1)
        for i in range(CLASSES):
            matrix[i, j] = largest[labels == i].mean()
    return matrix


def run(contender: str, count: int, block_size: int) -> None:
    """Measures one contender; the entry point of a process."""
    vectors, labels = samples(count)
    if contender == "numpy":

        def compute():
            return all_at_once(vectors, labels)
    else:
        from keras_wake.attribution import instance_correlation

        def compute():
            return instance_correlation(vectors, labels, CLASSES, block_size)

        # Starts the threads of the matrix product.
        instance_correlation(vectors[:100], labels[:100])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.perf_counter()
    matrix = compute()
    seconds = time.perf_counter() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    tracemalloc.start()
    compute()
    peak = tracemalloc.get_traced_memory()[1] / MIB
    report(
        seconds=seconds,
        extra_mib=peak,
        grown_mib=grown,
        matrix=matrix.tolist(),
    )


def bound_mib(count: int, block_size: int) -> float:
    """The bound that `instance_correlation` states, in MiB."""
    b, n, k = block_size, FEATURES, CLASSES
    numbers = b**2 + 4 * b * n + 4 * b * k + 8 * count + 2 * k**2
    return 8 * numbers / MIB


def free_mib() -> float:
    """Memory that is neither used nor reserved."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/meminfo does not tell MemAvailable.")


def fits(count: int) -> bool:
    """Whether the contender's arrays take at most half of the free memory."""
    # All cosines, and a copy of those of one class of ten.
    needed = 8 * (1.2 * count**2 + 2 * count * FEATURES) / MIB
    return needed < free_mib() / 2


def compare(count: int, block_size: int, turns: int) -> dict:
    """All measurements for one number of samples."""
    runs = {name: [] for name in CONTENDERS}
    for _ in range(turns):
        for name in CONTENDERS:
            if name == "numpy" and not fits(count):
                continue
            spec = {
                "contender": name,
                "count": count,
                "block_size": block_size,
            }
            # Importing Keras is not measured, so any backend will do.
            found, failure = measure(
                __file__, spec, environment("tensorflow"), limit=1800
            )
            if failure:
                sys.exit(f"{name}, {count} samples: {failure}")
            runs[name].append(found[-1])
    result = {"samples": count, "bound_mib": bound_mib(count, block_size)}
    for name, measured in runs.items():
        if measured:
            result[name] = {
                key: statistics.median(one[key] for one in measured)
                for key in ("seconds", "extra_mib", "grown_mib")
            }
            seconds = [one["seconds"] for one in measured]
            result[name]["all_seconds"] = seconds
    if runs["numpy"]:
        ours, theirs = (runs[name][0]["matrix"] for name in CONTENDERS)
        result["largest_difference"] = max(
            abs(a - b)
            for rows in zip(ours, theirs, strict=True)
            for a, b in zip(*rows, strict=True)
        )
    return result


def main() -> None:
    """Measures all sizes, and prints a table and the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        run(**args.measure)
        return
    results = [
        compare(count, args.block_size, args.turns) for count in args.samples
    ]
    rows = []
    for result in results:
        ours, theirs = result["keras-wake"], result.get("numpy")
        rows.append(
            [
                f"{result['samples']:,}",
                f"{ours['seconds']:.2f}",
                f"{theirs['seconds']:.2f}" if theirs else "-",
                f"{ours['extra_mib']:.1f}",
                f"{result['bound_mib']:.1f}",
                f"{theirs['extra_mib']:.1f}" if theirs else "-",
                f"{result['largest_difference']:.0e}" if theirs else "-",
            ]
        )
    header = [
        "samples",
        "seconds",
        "seconds, N²",
        "extra MiB",
        "bound, MiB",
        "extra MiB, N²",
        "largest difference",
    ]
    print(table(header, rows))
    record = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "commit": commit(),
        "versions": versions("keras", "numpy"),
        "features": FEATURES,
        "classes": CLASSES,
        "block_size": args.block_size,
        "turns": args.turns,
        "results": results,
    }
    if args.output:
        write(args.output, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()

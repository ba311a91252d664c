"""Compares training steps on a GPU, on every Keras backend, with PyTorch.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --resume          # goes on where it stopped
    python benchmarks/gpu.py --methods at --workloads preact_resnet18:128

The benchmark times a step of regular training ("standard"), of adversarial
training with PGD-10 ("at"), of TRADES ("trades") and of WAKE ("wake": the
teacher is averaged and distilled from in every step) of PreActResNet-18 and
WideResNet-28-10 on random images of CIFAR's size: SGD with momentum and weight
decay, the attack from a random start on the network in evaluation mode, the
update in training mode. Contenders are

    torch-eager          plain PyTorch: float32, NCHW
    torch-compile        `torch.compile`, channels last, bfloat16 (autocast)
    torch-compile-graphs the same with CUDA graphs ("reduce-overhead")
    keras-BACKEND        `WakeModel.fit` on arrays in memory, float32 and
                         `mixed_bfloat16`, for each installed backend

PyTorch's images are on the GPU, and its metrics are read once per repetition.
`fit` feeds its batches from the host's memory, as it does for users. Each
measurement has a process of its own. A repetition is an epoch of a few thousand
images, timed from its beginning until the GPU is idle. The first one warms up,
and the median of the others is reported. "first" is the time of the first step,
which compiles. After the timing, ten steps are traced by the framework's
profiler; "idle" is the share of their time in which nothing ran on the GPU.

Model FLOP utilisation (MFU) counts the multiplications and additions of
convolutions and dense layers. A backward pass counts as two forward passes,
or as one if only the gradient of the images is computed. So a step counts as
3 forward passes, as 2k + 3 with PGD-k, as 2k + 4 with WAKE's teacher, and as
2k + 7 with TRADES, which trains on clean images, too. The peak is that of
dense products on the tensor cores. For float32 it is that of TF32, which all
three frameworks use in convolutions by default.

The most important measurements come first. Each is written as soon as it is
finished; one that fails is written with its error. After eight minutes the
benchmark stops, and `--resume` goes on.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import pathlib
import platform
import re
import statistics
import sys
import time

from _gpu_contenders import run_measurement
from _shared import commit
from _shared import environment
from _shared import measure
from _shared import ROOT
from _shared import table
from _shared import versions
from _shared import write

# In the order of their importance.
CONTENDERS = {
    "torch-eager": ("float32",),
    "torch-compile": ("bfloat16",),
    "keras-jax": ("bfloat16", "float32"),
    "keras-tensorflow": ("bfloat16", "float32"),
    "keras-torch": ("bfloat16", "float32"),
    "torch-compile-graphs": ("bfloat16",),
}
METHODS = ("at", "wake", "trades", "standard")
# Network and batch size, and how many images a repetition has.
WORKLOADS = {
    "preact_resnet18:128": 6400,
    "wide_resnet28_10:128": 1280,
    "preact_resnet18:512": 12800,
}
TINY = {"preact_resnet18:8": 24}
# The largest shares of the time of these peers, and of the time that the
# device waits.
GOALS = {"torch-eager": 0.40, "torch-compile": 0.90}
IDLE_GOAL = 0.03

# Dense peak in TFLOP/s: bfloat16, and float32 as TF32 on the tensor cores
# (V100 and T4: plain float32, they have neither). From the data sheets; the
# first row whose words are all in the device's name counts.
PEAKS = {
    "B200": (2250, 1125),
    "GH200": (989, 495),
    "H200": (989, 495),
    "H100 NVL": (835, 417),
    "H100 PCIe": (756, 378),
    "H100": (989, 495),
    "A100": (312, 156),
    "L40S": (362, 183),
    "L4": (121, 60),
    "A10": (125, 62),
    "A10G": (70, 35),
    "V100": (None, 15.7),
    "T4": (None, 8.1),
}
PRECISIONS = ("bfloat16", "float32")
# With less time left, no measurement is begun.
SHORTEST = 20


def missing_package(contender: str) -> str | None:
    """The packages that a contender needs and does not find."""
    family, framework = contender.split("-")[:2]
    needed = ["keras", framework] if family == "keras" else ["torch"]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            return f"ImportError: {package} is not installed"
    return None


def wanted(args) -> list[dict]:
    """The measurements to make, the most important first."""
    # What is at the top of both lists comes first.
    pairs = itertools.product(
        enumerate(args.workloads), enumerate(args.methods)
    )
    pairs = sorted(pairs, key=lambda pair: pair[0][0] + pair[1][0])
    return [
        {
            "contender": contender,
            "method": method,
            "precision": precision,
            **workload,
        }
        for (_, workload), (_, method) in pairs
        for contender in args.contenders
        for precision in CONTENDERS[contender]
        if precision in args.precisions
    ]


def workload(name: str) -> dict:
    """Network and batch size; `ValueError` for other texts."""
    if not re.fullmatch(r"(preact_resnet18|wide_resnet\d+_\d+):\d+", name):
        raise ValueError
    network, batch = name.split(":")
    return {"network": network, "batch": int(batch)}


def key(measurement: dict, **changes) -> tuple:
    """What identifies a measurement."""
    names = ("contender", "method", "precision", "network", "batch")
    return tuple({**measurement, **changes}[name] for name in names)


def measure_all(record: dict, args) -> bool:
    """Adds missing measurements to the record; returns whether all are done."""
    done = {
        key(m)
        for m in record["measurements"]
        if not (args.retry_failed and "error" in m)
    }
    todo = [m for m in wanted(args) if key(m) not in done]
    end = time.monotonic() + args.budget_seconds
    unavailable = {c: missing_package(c) for c in args.contenders}
    for number, found in enumerate(todo, start=1):
        reason = unavailable[found["contender"]]
        left = end - time.monotonic()
        if reason is None and left < SHORTEST:
            return False
        label = " ".join(map(str, key(found)))
        print(f"{number}/{len(todo)} {label}", file=sys.stderr, flush=True)
        if reason is None:
            spec = {**found, **record["setting"], "cpu": args.cpu or args.tiny}
            spec["images"] = images_of(found)
            family, framework = found["contender"].split("-")[:2]
            backend = framework if family == "keras" else "torch"
            reports, failure = measure(
                __file__,
                spec,
                environment(backend, cpu=False),
                min(left, args.timeout),
            )
            if failure == "timeout":
                if left < args.timeout:
                    return False
                failure = f"not finished after {args.timeout:g} s"
            found |= reports[-1] if reports else {"error": failure}
            if found.pop("unavailable", False):
                unavailable[found["contender"]] = found["error"]
        else:
            found["error"] = reason
        found |= {"commit": record["commit"], "date": record["date"]}
        others = [m for m in record["measurements"] if key(m) != key(found)]
        record["measurements"] = [*others, found]
        record["device"] = found.get("device") or record["device"]
        if args.output:
            write(args.output, record)
    return True


def images_of(measurement: dict) -> int:
    """How many images a repetition has; at least ten steps if not given."""
    network, batch = measurement["network"], measurement["batch"]
    sizes = {**WORKLOADS, **TINY}
    return sizes.get(f"{network}:{batch}", 10 * batch)


def step_seconds(measurement: dict | None) -> float | None:
    """The median over the repetitions; `None` if there are none."""
    seconds = (measurement or {}).get("seconds_per_step")
    return statistics.median(seconds) if seconds else None


def peak_tflops(device: str, override=None) -> dict[str, float | None]:
    """Peak by precision; `None` if it is not known."""
    if override:
        return dict(zip(PRECISIONS, override, strict=True))
    words = device.replace("-", " ").split()
    for name, peaks in PEAKS.items():
        if all(word in words for word in name.split()):
            return dict(zip(PRECISIONS, peaks, strict=True))
    return dict.fromkeys(PRECISIONS)


def forward_passes(method: str, attack_steps: int) -> int:
    """How many forward passes a step counts as."""
    if method == "standard":
        return 3
    return 2 * attack_steps + {"at": 3, "wake": 4, "trades": 7}[method]


def summarise(record: dict, peaks: dict) -> None:
    """Adds ratios and utilisation to each measurement."""
    by_key = {key(m): m for m in record["measurements"]}
    for found in record["measurements"]:
        seconds = step_seconds(found)
        if seconds is None:
            continue
        passes = forward_passes(
            found["method"], record["setting"]["attack_steps"]
        )
        flops = passes * found["forward_flops"] * found["batch"]
        peak = peaks[found["precision"]]
        found["images_per_second"] = found["batch"] / seconds
        found["mfu"] = flops / seconds / (peak * 1e12) if peak else None
        ratios = {}
        for peer in GOALS:
            (precision,) = CONTENDERS[peer]
            other = by_key.get(key(found, contender=peer, precision=precision))
            if other and other.get("device") == found["device"]:
                if step_seconds(other):
                    ratios[peer] = seconds / step_seconds(other)
        if found["method"] == "wake":
            other = step_seconds(by_key.get(key(found, method="at")))
            if other:
                ratios["time of AT"] = seconds / other
        found["ratios"] = ratios


def show(record: dict, peaks: dict) -> None:
    """Prints the table."""

    def number(value, form="{:.2f}"):
        return "" if value is None else form.format(value)

    header = (
        "network | batch | method | contender | precision | ms a step | "
        "images/s | MFU | / eager | / compiled | / AT | idle | peak GiB | "
        "first s"
    ).split(" | ")
    rows, failures, order = [], [], [*METHODS, *CONTENDERS]
    for found in sorted(
        record["measurements"],
        key=lambda m: (
            *(m["network"], m["batch"]),
            *(order.index(m["method"]), order.index(m["contender"])),
        ),
    ):
        names = [found["method"], found["contender"], found["precision"]]
        seconds = step_seconds(found)
        if seconds is None:
            reason = found["error"].splitlines()[-1]
            failures.append(f"- {' '.join(map(str, key(found)))}: {reason}")
            continue
        ratios, memory = found["ratios"], found["peak_bytes"]
        row = [
            number(1000 * seconds),
            number(found["images_per_second"], "{:.0f}"),
            number(found["mfu"], "{:.1%}"),
            *(number(ratios.get(peer)) for peer in GOALS),
            number(ratios.get("time of AT")),
            number(found["idle"], "{:.1%}"),
            number(memory and memory / 2**30),
            number(found["first_step_seconds"], "{:.1f}"),
        ]
        rows.append([found["network"], str(found["batch"]), *names, *row])
    setting = record["setting"]
    print(
        f"\nPGD-{setting['attack_steps']}, width of PreActResNet-18 "
        f"{setting['width']}, {record['device']}\nPeak TFLOP/s: {peaks}; "
        f"goals: at most {GOALS} of their time, idle {IDLE_GOAL:.0%}\n"
    )
    print(table(header, rows))
    if failures:
        print("\n".join(["\nWithout a result:\n", *failures]))


def parse(argv=None):
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--output",
        type=pathlib.Path,
        default=ROOT / "benchmarks" / "results" / "gpu.json",
    )
    add("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    add("--methods", nargs="+", choices=METHODS, default=METHODS)
    add("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add("--workloads", nargs="+", type=workload, metavar="NETWORK:BATCH")
    add("--width", type=int, help="default 64")
    add("--repetitions", type=int, help="timed epochs, default 3")
    add(
        "--budget-seconds",
        type=float,
        default=480,
        help="when to stop; --resume goes on (default %(default)g)",
    )
    add(
        "--timeout",
        type=float,
        default=150,
        help="seconds for one measurement (default %(default)g)",
    )
    add("--resume", action="store_true", help="keep what --output holds")
    add("--retry-failed", action="store_true", help="with --resume")
    add(
        "--peak-tflops",
        nargs=2,
        type=float,
        metavar=tuple(name.upper() for name in PRECISIONS),
        help="of the device, if it is not known or not right",
    )
    add("--commit", help="of a copy without its history")
    add("--cpu", action="store_true", help="do without a GPU")
    add("--tiny", action="store_true", help="a test of the script itself")
    add("--measure", type=json.loads, help=argparse.SUPPRESS)
    return parser, parser.parse_args(argv)


def new_record(args) -> dict:
    """The record before the first measurement."""
    setting = {
        # Below 8, oneDNN in TensorFlow 2.21 crashes on a single thread.
        "width": args.width or (8 if args.tiny else 64),
        "attack_steps": 2 if args.tiny else 10,
        "repetitions": args.repetitions or (2 if args.tiny else 3),
        # No repetition begins after three that took longer than this.
        "seconds": 20,
    }
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "device": None,
        "commit": args.commit or commit(),
        "versions": {
            "python": platform.python_version(),
            **versions("keras", "jax", "jaxlib", "tensorflow", "torch"),
        },
        "setting": setting,
        "measurements": [],
    }


def main() -> None:
    """Measures as long as there is time, and prints the table."""
    parser, args = parse()
    if args.measure:
        run_measurement(args.measure)
        return
    names = TINY if args.tiny else WORKLOADS
    args.workloads = args.workloads or [*map(workload, names)]
    record = new_record(args)
    if args.resume and args.output.exists():
        before = json.loads(args.output.read_text())
        if before["setting"] != record["setting"]:
            parser.error(
                f"{args.output} was measured with {before['setting']}, not "
                f"with {record['setting']}: choose another --output."
            )
        record["measurements"] = before["measurements"]
        record["device"] = before["device"]
    finished = measure_all(record, args)
    peaks = peak_tflops(record["device"] or "", args.peak_tflops)
    summarise(record, peaks)
    write(args.output, {**record, "peak_tflops": peaks})
    show(record, peaks)
    if not finished:
        print("\nThe time is up: go on with --resume.")


if __name__ == "__main__":
    main()

"""Compares what `jit_compile="auto"` chooses with the other choices.

    python benchmarks/backends.py
    python benchmarks/backends.py --backends jax --limit 600

Adversarial training with PGD-10 of PreActResNet-18 at width 16, batch 64, on
every Keras backend that is installed: with and without compiling (XLA; on
PyTorch the network is traced for the attack), and with the steps of the attack
as a loop in the compiled function or unrolled. PyTorch has no such loop. Each
row of the table is measured in a process of its own. Two steps warm up, of
which the first compiles, and the median of the others is reported. If a row
does not finish within the limit, it says how far it got. The first row is plain
PyTorch: eager, NCHW, float32.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from _shared import commit
from _shared import environment
from _shared import EPSILON
from _shared import images
from _shared import measure
from _shared import report
from _shared import ROOT
from _shared import STEP_SIZE
from _shared import table
from _shared import versions
from _shared import wake_model
from _shared import write

BACKENDS = ("tensorflow", "jax", "torch")
PEER = "plain PyTorch"
WARM_UP = 2
FEWEST = 3  # timed steps, however long they take


# One row, in a process of its own --------------------------------------


class Steps:
    """Reports the seconds of each step and says when there are enough."""

    def __init__(self, spec: dict) -> None:
        self.wanted = WARM_UP + spec["steps"]
        # Half of the limit, so that the step that is running can end.
        self.late = time.perf_counter() + spec["limit"] / 2
        self.done = 0

    def add(self, seconds: float) -> None:
        """Reports a step."""
        report(seconds=seconds)
        self.done += 1

    @property
    def enough(self) -> bool:
        """Whether to stop."""
        late = time.perf_counter() > self.late
        fewest = min(self.wanted, WARM_UP + FEWEST)
        return self.done >= (fewest if late else self.wanted)


def run_torch(spec: dict) -> None:
    """Times the plain eager step."""
    import _torch_reference as reference
    import torch
    from torch.nn import functional as F

    network = reference.PreActResNet18(spec["width"])
    optimizer = reference.sgd(network)
    x, y = images(spec["batch"])
    x = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(y)

    def total_loss(images, labels):
        return F.cross_entropy(network(images), labels, reduction="sum")

    steps = Steps(spec)
    while not steps.enough:
        begin = time.perf_counter()
        network.eval()
        adversarial = reference.pgd(
            total_loss, x, y, EPSILON, STEP_SIZE, spec["attack_steps"]
        )
        network.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(adversarial), y)
        loss.backward()
        optimizer.step()
        loss.item()
        steps.add(time.perf_counter() - begin)


def unrolled(times: int, function: Callable, value: Any) -> Any:
    """The steps of an attack, unrolled."""
    for _ in range(times):
        value = function(value)
    return value


def loop(times: int, function: Callable, value: Any) -> Any:
    """The steps of an attack as a loop in the compiled function."""
    from keras import ops

    return ops.fori_loop(0, times, lambda _, v: function(v), value)


def run_keras(spec: dict) -> None:
    """Times the steps of `fit` with the settings of a row."""
    import keras

    import keras_wake

    name = keras.backend.backend()
    model, _ = wake_model("at", spec["width"], spec["attack_steps"])
    module = importlib.import_module(f"keras_wake.backend.{name}")
    report(
        auto={
            "jit": bool(model.jit_compile or model.training_step.jit_attack),
            "unrolled": name == "torch"
            or (name == "jax" and module.unroll_loops()),
        }
    )
    if name == "torch" and not spec["unrolled"]:
        report(error="PyTorch has no loop that could be compiled")
        return
    # What the backend would do if this row were its choice.
    keras_wake.backend.repeat = unrolled if spec["unrolled"] else loop
    module.jit_by_default = lambda: spec["jit"]
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4),
        jit_compile=spec["jit"],
    )
    steps = Steps(spec)

    class Clock(keras.callbacks.Callback):
        """Times the steps of one epoch."""

        def on_train_batch_begin(self, batch, logs=None):
            self.begin = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            steps.add(time.perf_counter() - self.begin)
            self.model.stop_training = steps.enough

    x, y = images(steps.wanted * spec["batch"])
    model.fit(
        x,
        y.astype("int32"),
        batch_size=spec["batch"],
        verbose=0,
        callbacks=[Clock()],
    )


def run_row(spec: dict) -> None:
    """The entry point of a process."""
    try:
        (run_torch if spec["backend"] == PEER else run_keras)(spec)
    except Exception as error:
        traceback.print_exc()
        report(error=f"{type(error).__name__}: {error}"[:500])


# All rows, one after another -------------------------------------------


def rows(backends: list[str]) -> list[dict]:
    """The rows to measure."""
    return [{"backend": PEER, "jit": False, "unrolled": True}] + [
        {"backend": backend, "jit": jit, "unrolled": unrolled}
        for backend in backends
        for jit in (True, False)
        for unrolled in (False, True)
    ]


def measure_row(row: dict, setting: dict) -> dict:
    """A row with its results."""
    keras = row["backend"] != PEER
    reports, failure = measure(
        __file__,
        {**row, **setting},
        environment(row["backend"] if keras else "torch"),
        setting["limit"],
    )
    seconds = [r["seconds"] for r in reports if "seconds" in r]
    error = next((r["error"] for r in reports if "error" in r), failure)
    if error == "timeout":
        so_far = f"{len(seconds)} steps" if seconds else "still compiling"
        error = f"{so_far} after {setting['limit']:g} s"
    auto = next((r["auto"] for r in reports if "auto" in r), None)
    timed = seconds[WARM_UP:]
    return {
        **row,
        "auto": auto and all(auto[name] == row[name] for name in auto),
        "first_step_seconds": seconds[0] if seconds else None,
        "seconds_per_step": statistics.median(timed) if timed else None,
        "steps": seconds,
        "error": error,
    }


def show(results: list[dict]) -> None:
    """Prints the table."""
    header = ["backend", "compiled", "attack", "s a step", "× auto"]
    header += ["first step, s", "auto", ""]
    chosen = {
        row["backend"]: row["seconds_per_step"]
        for row in results
        if row["auto"]
    }
    lines = []
    for row in results:
        seconds, first = row["seconds_per_step"], row["first_step_seconds"]
        auto = chosen.get(row["backend"])
        error = (row["error"] or "").splitlines() or [""]
        lines.append(
            [
                row["backend"],
                "yes" if row["jit"] else "no",
                "unrolled" if row["unrolled"] else "loop",
                f"{seconds:.3f}" if seconds else "",
                f"{seconds / auto:.2f}" if seconds and auto else "",
                f"{first:.1f}" if first else "",
                "**auto**" if row["auto"] else "",
                error[-1].replace("|", "/"),
            ]
        )
    print(table(header, lines))


def main() -> None:
    """Measures all rows and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--output",
        type=pathlib.Path,
        default=ROOT / "benchmarks" / "results" / "backends.json",
    )
    add("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    add("--width", type=int, help="default 16")
    add("--batch", type=int, help="default 64")
    add("--attack-steps", type=int, help="default 10")
    add("--steps", type=int, help="timed steps, default 10")
    add("--limit", type=float, default=300, help="seconds for a row")
    add("--tiny", action="store_true", help="a test of the script itself")
    add("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        run_row(args.measure)
        return
    # Below width 8, oneDNN in TensorFlow 2.21 crashes on a single thread.
    width, batch, attack_steps, steps = (
        (8, 4, 2, 1) if args.tiny else (16, 64, 10, 10)
    )
    setting = {
        "width": args.width or width,
        "batch": args.batch or batch,
        "attack_steps": args.attack_steps or attack_steps,
        "steps": args.steps or steps,
        "limit": args.limit,
    }
    results = []
    for row in rows(args.backends):
        print(*row.values(), file=sys.stderr, flush=True)
        results.append(measure_row(row, setting))
        record = {
            "date": datetime.date.today().isoformat(),
            "command": " ".join(["python", *sys.argv]),
            "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "commit": commit(),
            "versions": versions("keras", "jax", "tensorflow", "torch"),
            "setting": setting,
            "rows": results,
        }
        write(args.output, record)
    print(
        f"\nPreActResNet-18 width {setting['width']}, batch "
        f"{setting['batch']}, PGD-{setting['attack_steps']}, "
        f"{record['device']}\n"
    )
    show(results)


if __name__ == "__main__":
    main()

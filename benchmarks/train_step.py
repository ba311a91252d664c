"""Time and memory of a training step, compared with PyTorch in one run.

    pip install torch==2.13.0 && pip install -e '.[tensorflow]'
    python benchmarks/train_step.py --output benchmarks/results/train_step.json
    python benchmarks/train_step.py --width 64 --batch 32 --output FILE

The step is that of PreActResNet-18 with PGD-10, on random images of CIFAR's
size; 64 is the published width. Each contender runs in a process of its own.
They take turns, one step each, so that a machine that is slow for a while slows
all of them down. A ratio is the median over the turns. The claim is about
ratios; the seconds depend on the machine. The PyTorch step is a plain eager
implementation of the same step; in bfloat16 under autocast, channels last.
`KERAS_BACKEND=jax` (or torch) measures keras-wake on that backend.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from _shared import environment
from _shared import EPSILON
from _shared import images
from _shared import report
from _shared import STEP_SIZE
from _shared import wake_model
from _shared import where_measured
from _shared import write

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
STEPS = 10
WARM_UP = 2  # steps that compile, allocate and fill caches
CONTENDERS = (
    "torch",
    "torch channels_last",
    "torch channels_last bfloat16",
    "keras-wake standard",
    "keras-wake AT",
    "keras-wake WAKE",
    "keras-wake AT bfloat16",
    "keras-wake AT attack_dtype",
)


def wait_for_turn() -> None:
    """Waits for the parent to say that it is this contender's turn."""
    sys.stdin.readline()


def run_torch(width: int, batch: int, batches: int, *how: str) -> None:
    """Times the eager adversarial training step.

    Args:
        width: Of the network.
        batch: Images in a step.
        batches: Number of steps.
        *how: `"channels_last"`, and `"bfloat16"` for autocast.
    """
    import _torch_reference as reference
    import torch
    from torch.nn import functional as F

    network = reference.PreActResNet18(width)
    memory_format = torch.contiguous_format
    if "channels_last" in how:
        memory_format = torch.channels_last
    network = network.to(memory_format=memory_format)
    optimizer = reference.sgd(network)

    def logits_of(images):
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in how):
            return network(images)

    def total_loss(images, labels):
        return F.cross_entropy(logits_of(images), labels, reduction="sum")

    x, y = images(batches * batch)
    x = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(y)
    for start in range(0, len(x), batch):
        wait_for_turn()
        clean = x[start : start + batch].contiguous(memory_format=memory_format)
        labels = y[start : start + batch]
        begin = time.perf_counter()
        network.eval()
        adversarial = reference.pgd(
            total_loss, clean, labels, EPSILON, STEP_SIZE, STEPS
        )
        network.train()
        optimizer.zero_grad()
        logits = logits_of(adversarial)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()
        report(seconds=time.perf_counter() - begin)


def run_wake(width: int, batch: int, batches: int, *how: str) -> None:
    """Times the steps of `fit`, and takes the peak of memory.

    Args:
        width: Of the network.
        batch: Images in a step.
        batches: Number of steps.
        *how: The method; `"bfloat16"` for the policy `mixed_bfloat16`, and
            `"attack_dtype"` for the attack alone in bfloat16.
    """
    import resource

    import keras

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            wait_for_turn()
            self.begin = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            report(
                seconds=time.perf_counter() - self.begin,
                peak_mib=peak(),
                grown_mib=peak() - before,
            )

    if "bfloat16" in how:
        keras.config.set_dtype_policy("mixed_bfloat16")
    attack_dtype = "bfloat16" if "attack_dtype" in how else None
    model, callbacks = wake_model(
        how[0].lower(), width, STEPS, attack_dtype=attack_dtype
    )
    x, y = images(batches * batch)
    before = peak()
    model.fit(
        x, y, batch_size=batch, verbose=0, callbacks=[*callbacks, Clock()]
    )


def run_validation(width: int, batch: int, batches: int) -> None:
    """Times a validation pass with and without attribution, in turns."""
    import keras_wake as kw

    x, y = images(batches * batch)
    # The step is compiled anew whenever attribution is switched on or off,
    # so one model is timed for each.
    plain = wake_model("at", width, STEPS)[0]
    attributed = wake_model("at", width, STEPS)[0]

    def seconds(model, callbacks):
        begin = time.perf_counter()
        model.evaluate(x, y, batch_size=batch, verbose=0, callbacks=callbacks)
        return time.perf_counter() - begin

    turns = {
        "plain": lambda: seconds(plain, []),
        "attributed": lambda: seconds(attributed, [kw.CrossClassAttribution()]),
    }
    order = list(turns)
    while True:
        wait_for_turn()
        report(**{name: turns[name]() for name in order})
        # They take turns in being the first.
        order.reverse()


def run_import() -> None:
    """Seconds of `import keras_wake` on top of Keras and TensorFlow."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    wait_for_turn()
    begin = time.perf_counter()
    import keras_wake  # noqa: F401

    report(seconds=time.perf_counter() - begin)


def run_contender(name: str, width: int, batch: int, batches: int) -> None:
    """Runs one contender; the entry point of a process."""
    kind, *how = name.split()
    if kind == "torch":
        run_torch(width, batch, batches, *how)
    elif kind == "validation":
        run_validation(width, batch, batches)
    elif kind == "import":
        run_import()
    else:
        run_wake(width, batch, batches, *how)


class Contender:
    """A process that does one step whenever it is told to."""

    def __init__(
        self, name: str, width: int, batch: int, batches: int = 1
    ) -> None:
        command = [sys.executable, __file__, "--contender", name]
        numbers = {"width": width, "batch": batch, "turns": batches}
        for flag, number in numbers.items():
            command += [f"--{flag}", str(number)]
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment(BACKEND),
        )

    def step(self) -> dict:
        """One turn: what `report` was called with."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            self.errors.seek(0)
            sys.exit(f"{self.name} failed:\n{self.errors.read()[-2000:]}")

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def take_turns(width: int, batch: int, turns: int) -> dict[str, list[dict]]:
    """All contenders, one step each in every turn."""
    contenders = [
        Contender(name, width, batch, turns + WARM_UP) for name in CONTENDERS
    ]
    steps = {name: [] for name in CONTENDERS}
    for turn in range(turns + WARM_UP):
        for contender in contenders:
            result = contender.step()
            if turn >= WARM_UP:
                steps[contender.name].append(result)
        seconds = [f"{v[-1]['seconds']:.2f}" for v in steps.values() if v]
        print(
            f"turn {turn + 1}: {' '.join(seconds) or 'warming up'}",
            file=sys.stderr,
            flush=True,
        )
    for contender in contenders:
        contender.stop()
    return steps


def validate(
    width: int, batch: int, passes: int = 16, batches: int = 2
) -> list[dict]:
    """Seconds of some validation passes, without the one that compiles."""
    contender = Contender("validation", width, batch, batches)
    results = [contender.step() for _ in range(passes + 1)]
    contender.stop()
    return results[1:]


def import_seconds() -> float:
    """The time of one import in a fresh process."""
    contender = Contender("import", 1, 1)
    seconds = contender.step()["seconds"]
    contender.stop()
    return seconds


def median_ratio(numerators: list, denominators: list) -> float:
    """The median of the ratios of what was measured in the same turn."""
    pairs = zip(numerators, denominators, strict=True)
    return statistics.median(above / below for above, below in pairs)


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--turns", type=int, default=20, help="steps of each contender")
    add("--width", type=int, default=16, help="of the network")
    add("--batch", type=int, default=64, help="images in a step")
    add("--passes", type=int, default=16, help="of validation; 0: no "
        "validation, and no import")  # fmt: skip
    add("--output", type=pathlib.Path)
    add("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = args.width, args.batch
    if args.contender:
        run_contender(args.contender, *size, args.turns)
        return

    steps = take_turns(*size, args.turns)
    validation = validate(*size, args.passes) if args.passes else []
    imports = [import_seconds() for _ in range(3)] if args.passes else []

    def column(name: str, key: str) -> list:
        return [step[key] for step in steps[name]]

    def ratio(name: str, peer: str, key: str = "seconds") -> float:
        return median_ratio(column(name, key), column(peer, key))

    at, wake = "keras-wake AT", "keras-wake WAKE"
    standard, attack = "keras-wake standard", "keras-wake AT attack_dtype"
    at16, torch16 = "keras-wake AT bfloat16", "torch channels_last bfloat16"
    ratios = {
        "AT step / torch eager step": ratio(at, "torch"),
        "AT step / torch eager step, channels_last": ratio(
            at, "torch channels_last"
        ),
        "the same, both in bfloat16": ratio(at16, torch16),
        "AT step, bfloat16 / float32": ratio(at16, at),
        "AT step, attack_dtype=bfloat16 / float32": ratio(attack, at),
        "WAKE step / AT step": ratio(wake, at),
        "peak memory, AT / standard": ratio(at, standard, "peak_mib"),
        "memory above the start, AT / standard": ratio(
            at, standard, "grown_mib"
        ),
    }
    if validation:
        ratios["validation with / without attribution"] = median_ratio(
            [v["attributed"] for v in validation],
            [v["plain"] for v in validation],
        )
    step = {
        name: statistics.median(column(name, "seconds")) for name in CONTENDERS
    }
    print(f"\nPreActResNet-18 width {size[0]}, batch {size[1]}, PGD-{STEPS}")
    for name, seconds in step.items():
        print(f"{name:28} {seconds:7.3f} s a step")
    for name, value in ratios.items():
        print(f"{name:48} {value:6.2f}")
    if imports:
        median = statistics.median(imports)
        print(f"{'import keras_wake, seconds':48} {median:6.2f}")
    if args.output:
        record = {
            **where_measured("keras", BACKEND, "torch"),
            "backend": BACKEND,
            "command": " ".join(["python", *sys.argv]),
            "width": args.width,
            "batch": args.batch,
            "ratios": ratios,
            "seconds_per_step": step,
            "import_seconds": imports,
            "validation": validation,
            "steps": steps,
        }
        write(args.output, record)


if __name__ == "__main__":
    main()

"""Time and memory of a training step, against PyTorch, measured in one run.

    pip install torch==2.13.0 && pip install -e '.[tensorflow]' psutil
    python benchmarks/train_step.py --output benchmarks/results/train_step.json

The work is PreActResNet-18 at width 16, batch 64, PGD-10 on random images of
CIFAR's size. Each contender runs in a process of its own, the processes take
turns for some rounds, and the median time of a step counts. The PyTorch step
is the plain eager implementation of the same thing. Ratios are what is
claimed; the seconds are this machine's.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

WIDTH, BATCH, STEPS = 16, 64, 10
EPSILON, STEP_SIZE = 8 / 255, 2 / 255
CONTENDERS = (
    "torch",
    "torch channels_last",
    "keras-wake standard",
    "keras-wake AT",
    "keras-wake WAKE",
)


def images(batches: int):
    """Random images and labels, the same for every contender."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(batches * BATCH, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, len(x))


def torch_network():
    """PreActResNet-18 as published, in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = None
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Conv2d(
                    inputs, outputs, 1, stride, bias=False
                )

        def forward(self, x):
            out = F.relu(self.bn1(x))
            shortcut = x if self.shortcut is None else self.shortcut(out)
            out = self.conv2(F.relu(self.bn2(self.conv1(out))))
            return out + shortcut

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False)
            blocks, inputs = [], WIDTH
            for stage in range(4):
                outputs = WIDTH * 2**stage
                for block in range(2):
                    stride = 2 if stage and not block else 1
                    blocks.append(Block(inputs, outputs, stride))
                    inputs = outputs
            self.blocks = nn.Sequential(*blocks)
            self.bn = nn.BatchNorm2d(inputs)
            self.linear = nn.Linear(inputs, 10)
            mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
            std = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, x):
            out = self.blocks(self.conv1((x - self.mean) / self.std))
            return self.linear(F.relu(self.bn(out)).mean((2, 3)))

    return Network()


def run_torch(batches: int, channels_last: bool) -> dict:
    """Times the eager adversarial training step."""
    import torch
    from torch.nn import functional as F

    network = torch_network()
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last
    network = network.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4
    )
    x, y = images(batches)
    x = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(y)
    times = []
    for start in range(0, len(x), BATCH):
        clean = x[start : start + BATCH].contiguous(memory_format=memory_format)
        labels = y[start : start + BATCH]
        begin = time.perf_counter()
        network.eval()
        delta = torch.empty_like(clean).uniform_(-EPSILON, EPSILON)
        delta = (clean + delta).clamp(0, 1) - clean
        for _ in range(STEPS):
            delta.requires_grad_(True)
            loss = F.cross_entropy(
                network(clean + delta), labels, reduction="sum"
            )
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = delta.detach() + STEP_SIZE * gradient.sign()
            delta = delta.clamp(-EPSILON, EPSILON)
            delta = (clean + delta).clamp(0, 1) - clean
        network.train()
        optimizer.zero_grad()
        logits = network(clean + delta)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()
        times.append(time.perf_counter() - begin)
    return {"times": times[2:]}


def wake_model(kind: str):
    """The compiled model of a contender, and its callbacks."""
    import keras

    import keras_wake as kw

    classifier = kw.models.PreActResNet18(10, width=WIDTH)
    model = kw.WakeModel(
        classifier,
        attack=kw.attacks.PGD(
            epsilon=EPSILON, step_size=STEP_SIZE, steps=STEPS
        ),
        objective="standard" if kind == "standard" else "at",
        # In force from the first epoch on, with the averaging: its full cost.
        schedule=kw.schedules.DistillationRamp(0, 100)
        if kind == "WAKE"
        else None,
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4))
    return model, [kw.EMATeacher()] if kind == "WAKE" else []


def run_wake(batches: int, kind: str) -> dict:
    """Times the steps of `fit`, and takes the peak of memory."""
    import resource

    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_begin(self, batch, logs=None):
            self.begin = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.times.append(time.perf_counter() - self.begin)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    model, callbacks = wake_model(kind)
    x, y = images(batches)
    before = peak()
    clock = Clock()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[*callbacks, clock])
    return {
        "times": clock.times[2:],
        "peak_mib": peak(),
        "before_mib": before,
    }


def run_validation(batches: int) -> dict:
    """Times a validation pass with and without attribution, in turns."""
    import keras_wake as kw

    x, y = images(batches)
    # The step is compiled anew whenever attribution is switched on or off,
    # so one model is timed for each.
    plain_model, attributed_model = wake_model("AT")[0], wake_model("AT")[0]

    def seconds(model, callbacks):
        begin = time.perf_counter()
        model.evaluate(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        return time.perf_counter() - begin

    plain, attributed = [], []
    for _ in range(5):
        plain.append(seconds(plain_model, []))
        attributed.append(
            seconds(attributed_model, [kw.CrossClassAttribution()])
        )
    # The first turn compiles.
    plain, attributed = plain[1:], attributed[1:]
    return {"plain": plain, "attributed": attributed}


def run_import() -> dict:
    """Seconds of `import keras_wake` on top of Keras and TensorFlow."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    begin = time.perf_counter()
    import keras_wake  # noqa: F401

    return {"seconds": time.perf_counter() - begin}


def child(name: str, batches: int) -> dict:
    """Runs one contender; the entry point of a process."""
    if name.startswith("torch"):
        return run_torch(batches, channels_last=name != "torch")
    if name == "validation":
        return run_validation(batches)
    if name == "import":
        return run_import()
    return run_wake(batches, name.split()[-1])


def measure(name: str, batches: int) -> dict:
    """Runs a contender in a process of its own."""
    environment = dict(os.environ)
    environment.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environment["KERAS_BACKEND"] = "tensorflow"
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(
        [*command, "--batches", str(batches)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def versions() -> dict:
    """Versions of what is compared."""
    from importlib.metadata import version

    return {name: version(name) for name in ("keras", "tensorflow", "torch")}


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.batches)))
        return

    times = {name: [] for name in CONTENDERS}
    memory = {}
    for turn in range(args.rounds):
        for name in CONTENDERS:
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
            result = measure(name, args.batches)
            times[name] += result["times"]
            if "peak_mib" in result:
                peak, before = result["peak_mib"], result["before_mib"]
                memory.setdefault(name, []).append((peak, peak - before))
    validation = measure("validation", args.batches)
    imports = [measure("import", 0)["seconds"] for _ in range(3)]

    step = {name: statistics.median(t) for name, t in times.items()}
    at = step["keras-wake AT"]
    peak = {k: statistics.median(p for p, _ in v) for k, v in memory.items()}
    grown = {k: statistics.median(g for _, g in v) for k, v in memory.items()}
    ratios = {
        "AT step / torch eager step": at / step["torch"],
        "AT step / torch eager step, channels_last": at
        / step["torch channels_last"],
        "WAKE step / AT step": step["keras-wake WAKE"] / at,
        "validation with / without attribution": statistics.median(
            validation["attributed"]
        )
        / statistics.median(validation["plain"]),
        "peak memory, AT / standard": peak["keras-wake AT"]
        / peak["keras-wake standard"],
        "memory above the start, AT / standard": grown["keras-wake AT"]
        / grown["keras-wake standard"],
    }
    print(f"\nPreActResNet-18 width {WIDTH}, batch {BATCH}, PGD-{STEPS}")
    for name, seconds in step.items():
        note = f"{peak[name]:8.0f} MiB at peak" if name in peak else ""
        print(f"{name:24} {seconds:7.3f} s a step {note}")
    for name, ratio in ratios.items():
        print(f"{name:48} {ratio:6.2f}")
    print(f"{'import keras_wake, seconds':48} {min(imports):6.2f}")
    if args.output:
        record = {
            "date": datetime.date.today().isoformat(),
            "command": " ".join(["python", *sys.argv]),
            "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": versions(),
            "seconds_per_step": step,
            "all_steps": times,
            "peak_mib": peak,
            "grown_mib": grown,
            "validation_seconds": validation,
            "import_seconds": imports,
            "ratios": ratios,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The memory of a training step, as XLA plans it on JAX and TensorFlow.

    python benchmarks/memory.py --output benchmarks/results/memory.json
    python benchmarks/memory.py --backends jax --resume

PreActResNet-18 at width 64 with batches of 128 and 512, and WideResNet-34-10
with 128: SGD with momentum, PGD-10, float32. Nothing is executed. The step is
compiled for its shapes alone, as "auto" would on a GPU: the whole of it, with
the attack as a loop. On JAX, `memory_analysis()` of the compiled step has the
numbers, and on TensorFlow the plan that `--xla_dump_to` writes. XLA plans for
this CPU; on a GPU, libraries such as cuDNN need memory of their own, and arrays
may have another layout.

A step needs the arrays that stay (weights, momentum, teacher, images) and what
XLA allocates while it runs. The latter is also measured for the training pass
alone (a step on clean images, with its gradients) and for the attack alone.
Each is compiled in a process of its own.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile

from _shared import environment
from _shared import measure
from _shared import report
from _shared import table
from _shared import wake_model
from _shared import where_measured
from _shared import write

SETTINGS = (
    ("preact_resnet18", 128),
    ("preact_resnet18", 512),
    ("wide_resnet34_10", 128),
)
# What is compiled, and the steps of the attack.
PARTS = {
    "AT": ("at", 10),
    "training pass": ("standard", 10),
    "attack": ("attack", 10),
    "attack, 2 steps": ("attack", 2),
    "WAKE": ("wake", 10),
}


def run(spec: dict) -> None:
    """Reports what the arrays that stay need, and what XLA allocates."""
    method = spec["method"]
    if spec["backend"] == "tensorflow":
        folder = tempfile.TemporaryDirectory()
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder.name}"
    model, callbacks = wake_model(
        "at" if method == "attack" else method,
        spec["width"],
        spec["attack_steps"],
        jit_compile=spec["backend"] == "jax",
        network=spec["network"],
        gradient_checkpointing=spec["gradient_checkpointing"],
    )
    model.optimizer.build(model.trainable_variables)
    for callback in callbacks:
        callback.set_model(model)
    found = {
        "weights": bytes_of(model.classifier.variables),
        "teacher": bytes_of(model.teacher.variables),
        "momentum": bytes_of(model.optimizer.variables),
    }
    if spec["backend"] == "jax":
        found["allocated"] = planned_by_jax(model, method, spec["batch"])
    else:
        found["allocated"] = planned_by_tensorflow(
            model, method, spec["batch"], folder.name
        )
        folder.cleanup()
    report(**found)


def bytes_of(variables) -> int:
    """Bytes of the values of variables."""
    sizes = {"float32": 4, "int32": 4, "uint32": 4, "bool": 1, "int64": 8}
    total = 0
    for variable in variables:
        size = sizes[variable.dtype]
        for length in variable.shape:
            size *= length
        total += size
    return total


def planned_by_jax(model, method: str, batch: int) -> int:
    """What JAX allocates for a step, or for an attack."""
    import jax
    import keras

    from keras_wake.backend import jax as wake_jax

    # As on a GPU.
    wake_jax.unroll_loops = lambda: False
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [
        [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in group]
        for group in groups
    ]
    data = (
        jax.ShapeDtypeStruct((batch, 32, 32, 3), "float32"),
        jax.ShapeDtypeStruct((batch,), "int32"),
    )

    def attack(state, data):
        pairs = [
            pair
            for group, values in zip(groups, state, strict=True)
            for pair in zip(group, values, strict=True)
        ]
        with keras.StatelessScope(pairs):
            return model.training_step.check_and_attack(data)[0]

    step = attack if method == "attack" else model.train_step
    donated = () if method == "attack" else (0,)
    plan = (
        jax.jit(step, donate_argnums=donated)
        .lower(state, data)
        .compile()
        .memory_analysis()
    )
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.temp_size_in_bytes + results


def planned_by_tensorflow(model, method: str, batch: int, folder: str) -> int:
    """What XLA allocates for a step of TensorFlow, or for an attack."""
    import tensorflow as tf

    from keras_wake.backend import tensorflow as wake_tensorflow

    # As on a GPU.
    wake_tensorflow.jit_by_default = lambda: True

    def attack(data):
        return model.training_step.check_and_attack(data)[0]

    step = attack if method == "attack" else model.train_step
    compiled = tf.function(
        lambda *data: step(data), jit_compile=True, autograph=False
    )
    data = (
        tf.TensorSpec((batch, 32, 32, 3), tf.float32),
        tf.TensorSpec((batch,), tf.int32),
    )
    compiled.experimental_get_compiler_ir(*data)(stage="optimized_hlo")
    plans = pathlib.Path(folder).glob("*-buffer-assignment.txt")
    return max(allocated(plan.read_text()) for plan in plans)


def allocated(plan: str) -> int:
    """Bytes of a plan of XLA, without its arguments and constants."""
    found = re.findall(r"^allocation \d+: size (\d+), (.*)$", plan, re.M)
    return sum(
        int(size)
        for size, kind in found
        if not kind.startswith(("parameter", "constant", "thread-local"))
    )


def wanted(args) -> list[dict]:
    """What to compile, in order."""
    found = []
    for backend in args.backends:
        for network, batch in args.settings:
            for checkpointing in (False, True):
                for method, steps in map(PARTS.get, args.parts):
                    if checkpointing and (method, steps) == ("attack", 2):
                        continue
                    spec = {
                        "backend": backend,
                        "network": network,
                        "batch": batch,
                        "gradient_checkpointing": checkpointing,
                        "method": method,
                        "attack_steps": steps,
                    }
                    found.append(spec)
    return found


def same(found: dict, spec: dict) -> bool:
    """Whether this is the measurement of `spec`."""
    return all(found.get(name) == value for name, value in spec.items())


def show(record: dict) -> None:
    """Prints the table, in MiB."""
    header = (
        "network, batch | backend | weights | momentum | teacher | "
        "training pass | attack | attack, 2 steps | AT | WAKE | AT, all | "
        "AT, checkpointing | AT, all, checkpointing"
    ).split(" | ")
    by_setting: dict[tuple, list[dict]] = {}
    for found in record["measurements"]:
        if "error" in found:
            print(f"Without a result: {found}")
            continue
        names = ("network", "batch", "backend")
        setting = tuple(found[name] for name in names)
        by_setting.setdefault(setting, []).append(found)
    rows = [row(*setting, found) for setting, found in by_setting.items()]
    print(f"\nMiB\n\n{table(header, rows)}")


def row(network: str, batch: int, backend: str, found: list[dict]) -> list[str]:
    """A row of the table; what was not compiled is left empty."""
    parts = {
        (
            each["method"],
            each["attack_steps"],
            each["gradient_checkpointing"],
        ): each["allocated"]
        for each in found
    }
    plain = [parts.get((*PARTS[name], False)) for name in PARTS]
    at, training_pass, attack, short_attack, wake = plain
    recomputed = parts.get((*PARTS["AT"], True))
    stays = [found[0][name] for name in ("weights", "momentum", "teacher")]
    all_that_stays = sum(stays) + batch * 32 * 32 * 3 * 4
    sizes = [
        *(*stays, training_pass, attack, short_attack, at, wake),
        *(at and at + all_that_stays, recomputed),
        recomputed and recomputed + all_that_stays,
    ]
    texts = ["" if s is None else f"{s / 2**20:,.0f}" for s in sizes]
    return [f"{network}, {batch}", backend, *texts]


def setting(text: str) -> tuple[str, int]:
    """A network and a batch size, as in `preact_resnet18:128`."""
    network, batch = text.split(":")
    return network, int(batch)


def main() -> None:
    """Compiles what is wanted, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", default=["jax", "tensorflow"])
    add(
        "--settings",
        nargs="+",
        type=setting,
        default=SETTINGS,
        metavar="NETWORK:BATCH",
    )
    add("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    add("--width", type=int, default=64, help="of preact_resnet18")
    add("--timeout", type=float, default=1200, help="seconds for each")
    add("--output", type=pathlib.Path, help="JSON file")
    add("--resume", action="store_true", help="keep what --output holds")
    add("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        run(args.measure)
        return
    record = {
        **where_measured("keras", "jax", "tensorflow"),
        "command": " ".join(["python", *sys.argv]),
        "width": args.width,
        "measurements": [],
    }
    if args.resume and args.output and args.output.exists():
        before = json.loads(args.output.read_text())
        if before["width"] != args.width:
            parser.error(f"{args.output} has width {before['width']}.")
        record["measurements"] = before["measurements"]
    for spec in wanted(args):
        if any(same(found, spec) for found in record["measurements"]):
            continue
        print(*spec.values(), file=sys.stderr, flush=True)
        reports, failure = measure(
            __file__,
            {**spec, "width": args.width},
            environment(spec["backend"]),
            args.timeout,
        )
        found = reports[-1] if reports else {"error": failure}
        record["measurements"].append({**spec, **found})
        if args.output:
            write(args.output, record)
    show(record)


if __name__ == "__main__":
    main()

"""The first step on JAX, with and without a cache of compiled steps.

    pip install -e '.[jax]'
    python benchmarks/jit_cache.py --output benchmarks/results/jit_cache.json

Adversarial training with PGD-10 of PreActResNet-18 at width 16, batch 64. Each
`fit` of one step has a process of its own: without a cache, with an empty one,
and with the one that the process before has filled. They take turns; of each
the smallest time is shown, on the clock and of the processor, and what the
cache holds afterwards. The loss must be the same.
"""

import argparse
import json
import pathlib
import tempfile
import time

from _shared import environment
from _shared import images
from _shared import measure
from _shared import report
from _shared import wake_model
from _shared import where_measured
from _shared import write

SPEC = {"width": 16, "batch": 64, "attack_steps": 10}
KINDS = ("none", "empty", "filled")


def run(width: int, batch: int, attack_steps: int) -> None:
    """Times the first step of a model."""
    import keras

    keras.utils.set_random_seed(0)
    model, _ = wake_model("at", width, attack_steps)
    x, y = images(batch)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    history = model.fit(x, y, batch_size=batch, verbose=0).history
    report(
        seconds=round(time.perf_counter() - begin, 1),
        cpu_seconds=round(time.process_time() - begin_cpu, 1),
        loss=history["loss"][0],
    )


def bytes_of(folder: str) -> int:
    """What the files of a folder hold."""
    files = pathlib.Path(folder).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def turn(spec: dict, limit: float) -> tuple[dict, int]:
    """One process of each kind, and the size of the cache."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            variables = environment("jax")
            variables.pop("JAX_COMPILATION_CACHE_DIR", None)
            if kind != "none":
                variables["JAX_COMPILATION_CACHE_DIR"] = folder
            reports, failure = measure(__file__, spec, variables, limit)
            if failure:
                raise SystemExit(f"{kind}: {failure}")
            found[kind] = reports[-1]
            print(kind, found[kind], flush=True)
        return found, bytes_of(folder)


def main() -> None:
    """Measures all kinds in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--width", type=int, default=SPEC["width"])
    parser.add_argument("--batch", type=int, default=SPEC["batch"])
    parser.add_argument("--steps", type=int, default=SPEC["attack_steps"])
    parser.add_argument("--output", type=pathlib.Path, help="JSON file")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        run(**args.measure)
        return
    spec = {
        "width": args.width,
        "batch": args.batch,
        "attack_steps": args.steps,
    }
    turns = [turn(spec, 600) for _ in range(args.turns)]
    result = {
        **where_measured("keras", "jax"),
        **spec,
        "turns": args.turns,
        "first_step_seconds": {
            kind: min(found[kind]["seconds"] for found, _ in turns)
            for kind in KINDS
        },
        "first_step_cpu_seconds": {
            kind: min(found[kind]["cpu_seconds"] for found, _ in turns)
            for kind in KINDS
        },
        "losses": {kind: turns[0][0][kind]["loss"] for kind in KINDS},
        "cache_bytes": turns[0][1],
    }
    print(json.dumps(result, indent=1))
    if args.output:
        write(args.output, result)


if __name__ == "__main__":
    main()

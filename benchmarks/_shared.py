"""What the benchmarks share: commit and versions, and measuring processes."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
EPSILON, STEP_SIZE = 8 / 255, 2 / 255


def commit() -> str:
    """The commit that is measured; `+` if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """The CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on Linux.
        return os.cpu_count() or 1


def where_measured(*packages: str) -> dict:
    """Date, commit, device and versions, for the record of a benchmark."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": f"{cores()} CPU cores, {platform.machine()}",
        "versions": versions(*packages),
    }


def environment(backend: str, cpu: bool = True) -> dict[str, str]:
    """The variables of a process that measures a Keras backend.

    On a CPU, TensorFlow is set up as in the examples (`examples/runner`).
    """
    variables = dict(os.environ)
    if cpu:
        half = max(1, cores() // 2)
        variables.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        variables.setdefault("TF_NUM_INTRAOP_THREADS", str(half))
        variables.setdefault("TF_NUM_INTEROP_THREADS", "2")
    variables.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    variables["KERAS_BACKEND"] = backend
    # The library in this repository is measured, not an installed one.
    path = [str(ROOT), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return variables


def images(count: int):
    """Random images of CIFAR's size and labels, the same for all."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, count)


def classifier(network: str, width: int, **options):
    """The network of a name.

    Args:
        network: `"preact_resnet18"`, or `"wide_resnet28_10"`, of any depth and
            factor.
        width: Of `preact_resnet18`.
        **options: More arguments of the network.
    """
    import keras_wake as kw

    if network == "preact_resnet18":
        return kw.models.PreActResNet18(10, width=width, **options)
    return kw.models.WideResNet(10, **wide_sizes(network), **options)


def wide_sizes(network: str) -> dict[str, int]:
    """Depth and factor, which the name of a wide residual network has."""
    depth, factor = network.removeprefix("wide_resnet").split("_")
    return {"depth": int(depth), "widen_factor": int(factor)}


def wake_model(
    method: str,
    width: int,
    steps: int,
    jit_compile="auto",
    network="preact_resnet18",
    attack_dtype: str | None = None,
    **options,
):
    """The compiled model of a method, and its callbacks.

    Args:
        method: `"standard"`, `"at"`, `"trades"` or `"wake"`.
        width: Of the network.
        steps: Of the attack.
        jit_compile: As in `compile`.
        network: As in `classifier`.
        attack_dtype: As in `WakeModel`.
        **options: More arguments of the network.
    """
    import keras

    import keras_wake as kw

    model = kw.WakeModel(
        classifier(network, width, **options),
        attack=kw.attacks.PGD(
            epsilon=EPSILON, step_size=STEP_SIZE, steps=steps
        ),
        objective="at" if method == "wake" else method,
        # Distillation and averaging begin in the first epoch: the full cost.
        schedule=kw.schedules.DistillationRamp(0, 100)
        if method == "wake"
        else None,
        attack_dtype=attack_dtype,
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4),
        jit_compile=jit_compile,
    )
    return model, [kw.EMATeacher()] if method == "wake" else []


def report(**values) -> None:
    """Sends a result to the parent process."""
    print(json.dumps(values), flush=True)


def measure(script: str, spec: dict, variables: dict, limit: float):
    """Runs `script --measure spec` in a process of its own.

    Args:
        script: Path of the script.
        spec: What the process measures.
        variables: The environment of the process.
        limit: Seconds after which the process is ended.

    Returns:
        The reports of the process, and why it failed: `None` if it did not,
        `"timeout"`, or the end of what it wrote to stderr.
    """
    # If this process is ended, so is the process that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, script, "--measure", json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=variables,
            # A group, because compilers start processes of their own.
            process_group=0,
        )
        failure = None
        try:
            if process.wait(timeout=max(limit, 0.1)):
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip()
                failure = text[-1000:] or f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            failure = "timeout"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    # Libraries may print as well; a line may be cut off.
    return [found for found in map(_object, lines) if found], failure


def _object(line: str) -> dict | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def write(path: pathlib.Path, record: dict) -> None:
    """Writes a record as JSON; the file is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(path)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, with columns of one width."""
    widths = [
        max(map(len, column)) for column in zip(header, *rows, strict=True)
    ]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        for line in lines
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)

"""Which of several processes this one is, according to the environment.

This is read before a framework is imported, which takes seconds. Only the first
process, the chief, writes files.
"""

import json
import os


def tf_config() -> bool:
    """Whether `TF_CONFIG` describes several TensorFlow workers."""
    return bool(os.environ.get("TF_CONFIG"))


def slurm() -> bool:
    """Whether SLURM has started several tasks of this step."""
    # Not SLURM_NTASKS, which the batch script itself sees as well.
    return _number("SLURM_STEP_NUM_TASKS", 1) > 1


def jax_job() -> bool:
    """Whether Keras is told to join several JAX processes."""
    return bool(os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"))


def torch_job() -> bool:
    """Whether `torchrun` has started several PyTorch processes."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1


def not_joined(backend: str) -> list[str]:
    """What describes other processes, which the backend does not join by it."""
    found = sorted(
        name
        for name, value in os.environ.items()
        if name.startswith("KERAS_DISTRIBUTION_") and value
    )
    by_torch = ["RANK"] * torch_job()
    if backend == "tensorflow":
        return [*found, *([] if tf_config() or slurm() else by_torch)]
    joined = jax_job() if backend == "jax" else torch_job()
    return [
        *["TF_CONFIG"] * tf_config(),
        *["SLURM"] * (slurm() and not joined),
        *([] if backend == "jax" else found),
        *(by_torch if backend == "jax" and not joined else []),
    ]


def is_chief() -> bool:
    """Whether this is the process that writes files.

    Raises:
        ValueError: A variable of the environment is not what it should be.
    """
    if tf_config():
        try:
            config = json.loads(os.environ["TF_CONFIG"])
            cluster, task = config.get("cluster", {}), config.get("task", {})
            if "chief" in cluster:
                return task.get("type") == "chief"
            return int(task.get("index", 0)) == 0
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                'TF_CONFIG must be a JSON object such as {"cluster": '
                '{"worker": ["host1:1234", "host2:1234"]}, "task": {"type": '
                '"worker", "index": 0}}. '
                f"Received: {os.environ['TF_CONFIG']!r}."
            ) from error
    if jax_job():
        return _number("KERAS_DISTRIBUTION_PROCESS_ID", 0) == 0
    # Before SLURM, under which each task may be a `torchrun` of several.
    if torch_job():
        return _number("RANK", 0) == 0
    if slurm():
        return _number("SLURM_PROCID", 0) == 0
    return True


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(
            f"The environment variable {name} must be a whole number. "
            f"Received: {text!r}."
        )
    return int(text)

"""Which of several processes this one is, according to the environment.

This is read before a framework is imported, which takes seconds. Only the first
process, the chief, writes files.
"""

import json
import os
from typing import Any


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


def keras_distribution() -> list[str]:
    """The variables that are set and that only JAX uses."""
    return sorted(
        name
        for name, value in os.environ.items()
        if name.startswith("KERAS_DISTRIBUTION_") and value
    )


def is_chief() -> bool:
    """Whether this is the process that writes files.

    Raises:
        ValueError: A variable of the environment is not what it should be.
    """
    if tf_config():
        cluster, task = _tf_config()
        if "chief" in cluster:
            return task.get("type") == "chief"
        index = task.get("index", 0)
        if not str(index).isdecimal():
            raise ValueError(
                "The index of the task in TF_CONFIG must be a whole number. "
                f"Received: {index!r}."
            )
        return int(index) == 0
    if jax_job():
        return _number("KERAS_DISTRIBUTION_PROCESS_ID", 0) == 0
    if slurm():
        return _number("SLURM_PROCID", 0) == 0
    return True


def _tf_config() -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and task of `TF_CONFIG`."""
    text = os.environ["TF_CONFIG"]
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    parts = [
        config.get(name, {}) if isinstance(config, dict) else None
        for name in ("cluster", "task")
    ]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            'TF_CONFIG must be a JSON object such as {"cluster": {"worker": '
            '["host1:1234", "host2:1234"]}, "task": {"type": "worker", '
            f'"index": 0}}}}. Received: {text!r}.'
        )
    return parts[0], parts[1]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(
            f"The environment variable {name} must be a whole number. "
            f"Received: {text!r}."
        )
    return int(text)

"""Which of several processes this one is, as the environment says.

Read before any framework is imported, which takes seconds. Only the first
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
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def jax_job() -> bool:
    """Whether Keras is told to join several JAX processes."""
    return bool(os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"))


def is_chief() -> bool:
    """Whether this is the process that writes files."""
    if tf_config():
        config = json.loads(os.environ["TF_CONFIG"])
        task = config.get("task", {})
        if "chief" in config.get("cluster", {}):
            return task.get("type") == "chief"
        return int(task.get("index", 0)) == 0
    if jax_job():
        return int(os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")) == 0
    if slurm():
        return int(os.environ.get("SLURM_PROCID", "0")) == 0
    return True

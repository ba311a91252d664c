"""How several processes share an evaluation."""

import os
import pathlib
import sys

import keras

from keras_wake import backend
from keras_wake.evaluation import reliability
from keras_wake.evaluation.joining import joined_report
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.evaluation.state import differences
from keras_wake.utils.types import Json


def share_of_process(
    model: keras.Model,
    fingerprint: Json,
    class_names: list[str],
    images: int,
    verbose: int,
) -> tuple[int, int]:
    """The number of this process, and how many shares there are.

    There are no more shares than images. Where the weights of the processes
    differ, as by moving statistics of batch norm, there is one share, for the
    first process. A process whose number is not below that of the shares has
    none.

    Raises:
        ValueError: If the processes are given different things.
    """
    process, processes = backend.processes(model)
    if verbose and process == 0:
        # If not all processes call, this one waits here.
        sys.stdout.write(
            f"{processes} processes share this evaluation. Waiting until all "
            "of them have called it.\n"
        )
        sys.stdout.flush()
    given = {
        **fingerprint,
        "settings": {**fingerprint["settings"], "class_names": class_names},
    }
    found = backend.gather_objects(model, given)
    first, same_weights = found[0], True
    for number, other in enumerate(found):
        # Other weights, and so other outputs, are no reason to refuse.
        alike = {"weights": first["weights"], "outputs": first["outputs"]}
        words = differences(
            first, {**other, **alike}, ("process 0", f"process {number}")
        )
        if words:
            raise ValueError(
                "Every process must be given the same classifier, settings "
                "and all of the data, which they share out by themselves. "
                f"Between the processes 0 and {number} these differ: "
                f"{'; '.join(words)}. To evaluate in this process alone, pass "
                "`shard=(0, 1)`."
            )
        same_weights &= other["weights"] == first["weights"]
    return process, min(processes, images) if same_weights else 1


def state_of_share(
    state: str | os.PathLike | None, index: int, count: int
) -> str | os.PathLike | None:
    """The file of a share, next to that of the evaluation."""
    if state is None or count == 1:
        return state
    path = pathlib.Path(state)
    return path.with_name(f"{path.stem}.{index}-of-{count}{path.suffix}")


def joined(
    model: keras.Model, report: RobustnessReport | None
) -> RobustnessReport:
    """The one report of all processes, in each of them.

    Args:
        model: The classifier.
        report: Of the share of this process; `None` if it has none.
    """
    found = backend.gather_objects(model, report)
    whole = joined_report([each for each in found if each is not None])
    # Each process has warned of the clean images before the attacks.
    before = reliability.of_clean_images(whole.findings)
    after = [finding for finding in whole.findings if finding not in before]
    reliability.warn(after, model.name, stacklevel=4)
    return whole

"""The progress of an evaluation, and the file that it resumes from.

The file is an archive of the progress and of a fingerprint: what classifier,
data and settings the progress belongs to. Adversarial images, if they are
kept, go to a second file, to which each batch appends its own.
"""

import dataclasses
import math
import os
import pathlib
import zlib

import keras
import numpy as np

from keras_wake.checkpoint import architecture
from keras_wake.checkpoint import archive
from keras_wake.checkpoint.lock import FileLock
from keras_wake.checkpoint.lock import in_use_error
from keras_wake.evaluation.compiled_classifier import differ
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json

STANDS = -1
WRONG = 0  # Misclassified without an attack.

# Outputs of the same network on another machine agree to this.
_SAME_OUTPUTS = 1e-3
_PLACES = ("the file", "this call")


# Fields of `Progress` that have another name in files.
_IN_FILES = {
    "attack_number": "attack",
    "images_run": "passes",
    "kept_samples": "order",
}


@dataclasses.dataclass
class Progress:
    """What has been found so far.

    Attributes:
        fallen_to: Int64 array (n,): `STANDS`, `WRONG`, or i for a sample that
            fell to attack i, counted from 1.
        attack_number: That of the current attack, from 0.
        stage: Number of its current stage.
        queue: Int64 array of the samples that stood when the stage began;
            None between two stages.
        position: How many of the queue are done.
        attacked: For each attack, how many samples stood when it began.
        images_run: For each attack, over how many images a stage was run.
        seconds: For each attack.
        outside: For each attack, how many images it returned that are not in
            the threat model.
        kept_samples: Numbers of the samples whose adversarial images are kept,
            in the order of the file of images.
        images_checksum: CRC-32 of these images.
        findings: What the checks have found, as pairs of code and message.
        steps: A `StepsCheck` as a dictionary; None if there was none.
        finished: Whether nothing is left to do.
    """

    fallen_to: Array
    attack_number: int = 0
    stage: int = 0
    queue: Array | None = None
    position: int = 0
    attacked: list[int] = dataclasses.field(default_factory=list)
    images_run: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    outside: list[int] = dataclasses.field(default_factory=list)
    kept_samples: list[int] = dataclasses.field(default_factory=list)
    images_checksum: int = 0
    findings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    steps: Json | None = None
    finished: bool = False

    @property
    def standing(self) -> Array:
        """The numbers of the samples that stand."""
        return np.flatnonzero(self.fallen_to == STANDS)

    def begin_attack(self) -> None:
        """Opens the counts of the current attack, unless they are open."""
        if len(self.attacked) == self.attack_number:
            self.attacked.append(len(self.standing))
            self.images_run.append(0)
            self.seconds.append(0.0)
            self.outside.append(0)

    def to_file(self) -> Json:
        """The entries of a state file."""
        return {_IN_FILES.get(k, k): v for k, v in vars(self).items()}

    @classmethod
    def from_file(cls, entries: Json) -> "Progress":
        """The progress of what `to_file` has returned.

        Raises:
            Exception: If these cannot be the counts of an evaluation.
        """
        names = {in_file: name for name, in_file in _IN_FILES.items()}
        progress = cls(**{names.get(k, k): v for k, v in entries.items()})
        number, queue = progress.attack_number, progress.queue
        rows = [*progress.kept_samples, *(() if queue is None else queue)]
        numbers = np.array([number, progress.stage, progress.position, *rows])
        counts = (progress.attacked, progress.images_run, progress.outside)
        if not (
            numbers.dtype.kind == "i"
            and numbers.min() >= 0
            and max(rows, default=0) < len(progress.fallen_to)
            and progress.fallen_to.min() >= STANDS
            and all(number <= len(each) <= number + 1 for each in counts)
        ):
            raise ValueError("The counts contradict each other.")
        return progress


def fingerprint(
    classifier: keras.Model,
    digest: str,
    settings: Json,
    outputs: Array | None,
) -> Json:
    """What identifies an evaluation: a call continues only its own state.

    Args:
        classifier: The network. The values of its weights count, their names
            do not: these change from process to process.
        digest: Digest of the images and labels.
        settings: Settings of the attacks and of the evaluation.
        outputs: Logits of a few images: networks of the same layers and
            weights may still differ. None if outputs are random.
    """
    return {
        "layers": architecture.layers_digest(classifier),
        "graph": architecture.graph_digest(classifier),
        "weights": architecture.weights_digest(classifier),
        "data": digest,
        "settings": settings,
        "outputs": outputs,
    }


def of_share(wanted: Json, index: int, count: int) -> Json:
    """The fingerprint of a share; one of one is the whole evaluation."""
    if count == 1:
        return wanted
    shard = {"shard": [index, count]}
    return {**wanted, "settings": {**wanted["settings"], **shard}}


def differences(
    found: Json, wanted: Json, places: tuple[str, str] = _PLACES
) -> list[str]:
    """The differences between two fingerprints, and where each is, as text."""
    # States of earlier versions have no graph.
    found = {"graph": wanted["graph"], **found}
    words = [
        text
        for key, text in (
            ("layers", "the layers of the classifier, or their settings"),
            ("graph", "the operations of the classifier, or their inputs"),
            ("weights", "the weights of the classifier"),
            ("data", "the images or labels"),
        )
        if found.get(key) != wanted[key]
    ]
    if not words and not _same_outputs(found["outputs"], wanted["outputs"]):
        words.append(
            "what the classifier returns, although layers and weights agree"
        )
    old, new = found.get("settings", {}), wanted["settings"]
    words += [
        f"`{name}` ({old.get(name)!r} in {places[0]}, {new.get(name)!r} in "
        f"{places[1]})"
        for name in architecture.differences(old, new)
    ]
    if any(
        text.startswith("Square") and "stretch_schedule" not in text
        for text in old.get("attacks", ())
    ):
        words.append(
            "the schedule of `Square`, which earlier versions scaled to the "
            "number of queries (`stretch_schedule=True`)"
        )
    return words


def _same_outputs(found: Array | None, wanted: Array | None) -> bool:
    if found is None or wanted is None:
        # Random in both, or in one of them.
        return found is wanted
    return not differ(found, wanted, _SAME_OUTPUTS)


class StateFile:
    """Progress on the disk, and next to it the adversarial images.

    Images are appended before the state that counts them is written. What a
    kill has left behind the counted ones is removed on resume.

    Args:
        path: The file; None to write nothing.
        wanted: The fingerprint of this evaluation.
    """

    def __init__(self, path: str | os.PathLike | None, wanted: Json) -> None:
        self.path = None if path is None else pathlib.Path(path)
        self.wanted = wanted
        self._lock: FileLock | None = None

    def __enter__(self) -> "StateFile":
        """Locks the file for this evaluation."""
        if self.path is None:
            return self
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = self._lock.acquire()
        except OSError as error:
            raise OSError(
                f"The state cannot be written to {self.path}: {error}. Its "
                "folder must exist or be one that can be made."
            ) from error
        if not free:
            raise in_use_error(f"The state {self.path}", "evaluation", "state")
        return self

    def __exit__(self, *error: object) -> None:
        """Unlocks the file."""
        if self._lock is not None:
            self._lock.release()

    def read(self) -> Progress | None:
        """The progress so far, or None where there is none.

        Raises:
            ValueError: If the file is damaged or of another evaluation.
        """
        if self.path is None or not self.path.exists():
            return None
        state, _ = archive.read(self.path)
        words = differences(state.get("fingerprint", {}), self.wanted)
        if words:
            raise ValueError(
                f"The state in {self.path} belongs to another evaluation. "
                f"These differ: {'; '.join(words)}. Pass another `state`, or "
                "delete the file to start from the beginning."
            )
        try:
            return Progress.from_file(state["progress"])
        except Exception as error:
            raise ValueError(
                f"The file {self.path} cannot be used: its counts contradict "
                "each other. Delete it to start from the beginning."
            ) from error

    def write(self, progress: Progress, images: Array | None = None) -> None:
        """Replaces the file by one of the present progress.

        Args:
            progress: What to write. Its `images_checksum` is updated.
            images: Float32 array (m, ...), the new adversarial images, of the
                last m of `progress.kept_samples`. Defaults to `None`: none.
        """
        if self.path is None:
            return
        if images is not None and len(images):
            self._append(images, progress)
        state = {"fingerprint": self.wanted, "progress": progress.to_file()}
        archive.write(self.path, state, [])

    def _append(self, images: Array, progress: Progress) -> None:
        """Adds images to their file, on the disk when this returns."""
        content = np.ascontiguousarray(images, "float32").tobytes()
        before = len(progress.kept_samples) - len(images)
        with open(f"{self.path}.images", "ab+") as file:
            file.truncate(before * (len(content) // len(images)))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        progress.images_checksum = zlib.crc32(content, progress.images_checksum)

    def read_images(self, progress: Progress, shape: tuple) -> Array:
        """Reads the images that `progress` counts, and removes any after them.

        Raises:
            ValueError: If there are fewer, or different ones.
        """
        count = len(progress.kept_samples)
        if self.path is None or not count:
            return np.empty((0, *shape), "float32")
        with open(f"{self.path}.images", "ab+") as file:
            file.seek(0)
            content = file.read(4 * count * math.prod(shape))
            file.truncate()
        if zlib.crc32(content) != progress.images_checksum:
            raise ValueError(
                f"The file {file.name} is damaged, or belongs to another state "
                f"than {self.path}. Delete both to start from the beginning."
            )
        return np.frombuffer(content, "float32").reshape(count, *shape)

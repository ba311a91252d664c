"""The progress of an evaluation, and the file that it resumes from.

The file is an archive of the progress and of a fingerprint: what classifier,
data and settings the progress belongs to. Adversarial images, if they are
kept, go to a second file, to which each batch appends its own.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import zlib
from collections.abc import Iterator

import keras
import numpy as np

from keras_wake import backend
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


@dataclasses.dataclass
class Progress:
    """What has been found so far.

    Attributes:
        fallen_to: Int64 array (n,): `STANDS`, `WRONG`, or i for a sample that
            fell to attack i, counted from 1.
        attack: Number of the current attack, from 0.
        stage: That of its current stage.
        queue: Int64 array of the samples that stood when the stage began;
            None between two stages.
        position: How many of the queue are done.
        attacked: For each attack, how many samples stood when it began.
        passes: For each attack, over how many images a stage was run.
        seconds: For each attack.
        outside: For each attack, how many images it returned that are not in
            the threat model.
        order: Samples whose adversarial image is kept, in the order of these.
        images_checksum: CRC-32 of these images.
        findings: What the checks have found, as pairs of code and message.
        finished: Whether nothing is left to do.
    """

    fallen_to: Array
    attack: int = 0
    stage: int = 0
    queue: Array | None = None
    position: int = 0
    attacked: list[int] = dataclasses.field(default_factory=list)
    passes: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    outside: list[int] = dataclasses.field(default_factory=list)
    order: list[int] = dataclasses.field(default_factory=list)
    images_checksum: int = 0
    findings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    finished: bool = False

    @property
    def standing(self) -> Array:
        """The numbers of the samples that stand."""
        return np.flatnonzero(self.fallen_to == STANDS)

    @property
    def in_queue(self) -> Array:
        """The queue; between two stages, an empty one."""
        return np.empty(0, "int64") if self.queue is None else self.queue

    def is_sound(self) -> bool:
        """Whether these can be the counts of an evaluation."""
        samples = len(self.fallen_to)
        lists = (self.attacked, self.passes, self.seconds, self.outside)
        numbers = (self.attack, self.stage, self.position)
        return (
            self.fallen_to.ndim == 1
            and self.fallen_to.dtype.kind == "i"
            and bool((self.fallen_to >= STANDS).all())
            and all(type(n) is int and n >= 0 for n in numbers)
            and all(
                self.attack <= len(each) <= self.attack + 1 for each in lists
            )
            and all(0 <= n < samples for n in (*self.order, *self.in_queue))
        )

    def begin_attack(self) -> None:
        """Opens the counts of the current attack, unless they are open."""
        if len(self.attacked) == self.attack:
            self.attacked.append(len(self.standing))
            self.passes.append(0)
            self.seconds.append(0.0)
            self.outside.append(0)


def fingerprint(
    classifier: keras.Model,
    digest: str,
    settings: Json,
    outputs: Array | None,
) -> Json:
    """What identifies an evaluation.

    A call continues from a state only if both have the same fingerprint.

    Args:
        classifier: The network. The values of its weights count, their names
            do not: these change from process to process.
        digest: Digest of the images and labels.
        settings: Settings of the attacks and of the evaluation.
        outputs: Logits of a few images: networks of the same layers and
            weights may still differ. None if outputs are random.
    """
    weights = hashlib.blake2b(digest_size=16)
    for variable in classifier.weights:
        value = np.ascontiguousarray(backend.to_numpy(variable))
        weights.update(f"{value.dtype}{value.shape}".encode())
        weights.update(value.tobytes())
    return {
        "layers": architecture.architecture(classifier),
        "graph": architecture.graph_digest(classifier),
        "weights": weights.hexdigest(),
        "data": digest,
        "settings": settings,
        "outputs": outputs,
    }


def differences(found: Json, wanted: Json) -> list[str]:
    """The differences between two fingerprints, as text."""
    words = []
    if found.get("layers") != wanted["layers"]:
        words.append("the layers of the classifier, or their settings")
    elif found.get("graph", wanted.get("graph")) != wanted.get("graph"):
        # States of earlier versions have none.
        words.append("the operations of the classifier, or their inputs")
    if found["weights"] != wanted["weights"]:
        words.append("the weights of the classifier")
    if found["data"] != wanted["data"]:
        words.append("the images or labels")
    if not words and not _same_outputs(found["outputs"], wanted["outputs"]):
        words.append(
            "what the classifier returns, although layers and weights agree"
        )
    old, new = found["settings"], wanted["settings"]
    words += [
        f"`{name}` ({old.get(name)!r} in the file, {new.get(name)!r} in this "
        "call)"
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
    return found.shape == wanted.shape and not differ(
        found, wanted, _SAME_OUTPUTS
    )


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
        """Locks the file for this evaluation.

        Raises:
            ValueError: If another evaluation uses it.
            OSError: If nothing can be written there.
        """
        if self.path is None or self.path.is_dir():
            return self
        path = self.path.with_name(self.path.name + ".lock")
        self._lock = FileLock(path)
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = self._lock.acquire()
        if not free:
            raise in_use_error(f"The state {self.path}", "evaluation", "state")
        return self

    def __exit__(self, *error: object) -> None:
        """Unlocks the file."""
        if self._lock is not None:
            self._lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of a file that cannot be written into a clear one."""
        try:
            yield
        except (
            FileNotFoundError,
            FileExistsError,
            NotADirectoryError,
        ) as error:
            raise OSError(
                f"The state cannot be written to {self.path}: {error}. Its "
                "folder must exist or be one that can be made, and no other "
                "process may write the same file at the same time."
            ) from error

    @property
    def images_path(self) -> pathlib.Path:
        """Where the images go."""
        path = pathlib.Path(self.path or "")
        return path.with_name(path.name + ".images")

    def read(self) -> Progress | None:
        """The progress so far, or None where there is none.

        Raises:
            ValueError: If the file is damaged or of another evaluation.
        """
        if self.path is None or not self.path.exists():
            return None
        if self.path.is_dir():
            raise ValueError(
                "`state` must be the path of a file, such as "
                f"{str(self.path / 'autoattack.npz')!r}. Received: the folder "
                f"{str(self.path)!r}."
            )
        state, _ = archive.read(self.path)
        if set(state) != {"fingerprint", "progress"}:
            raise ValueError(
                f"The file {self.path} is no state of an evaluation. Pass "
                "another `state`."
            )
        words = differences(state["fingerprint"], self.wanted)
        if words:
            raise ValueError(
                f"The state in {self.path} belongs to another evaluation. "
                f"These differ: {'; '.join(words)}. Pass another `state`, or "
                "delete the file to start from the beginning."
            )
        try:
            progress = Progress(**state["progress"])
            sound = progress.is_sound()
        except (AttributeError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError(
                f"The file {self.path} cannot be used: its counts contradict "
                "each other. Delete it to start from the beginning."
            )
        return progress

    def write(self, progress: Progress, images: Array | None = None) -> None:
        """Replaces the file by one of the present progress.

        Args:
            progress: What to write. Its `images_checksum` is updated for the
                new images.
            images: Float32 array (m, ...), the new adversarial images, of the
                last m samples in `progress.order`. Defaults to `None`: none.
        """
        if self.path is None:
            return
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if images is not None and len(images):
                self._append(images, progress)
            state = {
                "fingerprint": self.wanted,
                "progress": vars(progress).copy(),
            }
            archive.write(self.path, state, [])

    def _append(self, images: Array, progress: Progress) -> None:
        """Adds images to their file, on the disk when this returns."""
        content = np.ascontiguousarray(images, "float32").tobytes()
        before = len(progress.order) - len(images)
        self.images_path.touch()
        with open(self.images_path, "rb+") as file:
            file.seek(before * (len(content) // len(images)))
            file.truncate()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        progress.images_checksum = zlib.crc32(content, progress.images_checksum)

    def read_images(self, progress: Progress, shape: tuple) -> Array:
        """Reads the images that `progress` counts, and removes any after them.

        Args:
            progress: How far the evaluation is.
            shape: Of one image.

        Raises:
            ValueError: If there are fewer, or others.
        """
        count = len(progress.order)
        if self.path is None or not count:
            return np.empty((0, *shape), "float32")
        self.images_path.touch()
        with open(self.images_path, "rb+") as file:
            content = file.read(4 * count * math.prod(shape))
            file.truncate()
        if len(content) < 4 * count * math.prod(shape):
            raise ValueError(
                f"The file {self.images_path} holds fewer images than "
                f"{self.path} says. Delete both to start from the beginning."
            )
        if zlib.crc32(content) != progress.images_checksum:
            raise ValueError(
                f"The file {self.images_path} is damaged, or belongs to "
                f"another state than {self.path}. Delete both to start from "
                "the beginning."
            )
        return np.frombuffer(content, "float32").reshape(count, *shape)

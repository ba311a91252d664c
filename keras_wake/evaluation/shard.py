"""One of several shares of an evaluation, and what joining them needs."""

import base64
import dataclasses
import hashlib

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json


@dataclasses.dataclass(frozen=True)
class StepsCheck:
    """What an attack with twice the steps has found.

    Attributes:
        attack_number: That of the attack, from 0.
        positions: The images looked at, by their place in the order of
            digests of all images, ascending.
        fell: Which of them stood under the attack, and fell to twice its
            steps.
    """

    attack_number: int
    positions: list[int]
    fell: list[bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """Which share of the images a report is about.

    Share i of n has every n-th image in the order of digests, from the i-th
    on.

    Attributes:
        index: Its number, from 0.
        count: How many shares there are.
        samples: How many images all of them have together.
        fingerprint: What evaluation it is a share of; `outputs` in one row.
        outside: For each attack, how many images it returned that are not in
            the threat model.
        black_box: For each attack, whether it sees no gradients.
        steps: What twice the steps have found; None if that was not looked at.
        order: Digest of the order in which the data came.
        places: Int64 array (n,), where in the data its images stood,
            ascending. None if read from JSON.
    """

    index: int
    count: int
    samples: int
    fingerprint: Json
    outside: list[int]
    black_box: list[bool]
    steps: StepsCheck | None
    order: str
    places: Array | None = None

    def __str__(self) -> str:
        return f"shard ({self.index}, {self.count})"

    @property
    def size(self) -> int:
        """How many images it has."""
        return len(range(self.index, self.samples, self.count))

    def to_dict(self) -> Json:
        """All but the places, as lists and dictionaries."""
        found = {**vars(self), "steps": None}
        del found["places"]
        if self.steps is not None:
            found["steps"] = vars(self.steps)
        outputs = self.fingerprint["outputs"]
        if outputs is not None:
            # As text, because JSON has no NaN.
            content = np.ascontiguousarray(outputs, "<f4").tobytes()
            outputs = base64.b64encode(content).decode()
        found["fingerprint"] = {**self.fingerprint, "outputs": outputs}
        return found

    @classmethod
    def from_dict(cls, found: Json) -> "Shard":
        """The shard of what `to_dict` has returned.

        Raises:
            Exception: If `found` is something else.
        """
        check_shard((found["index"], found["count"]))
        validate.integer(found["count"], samples=found["samples"])
        fingerprint, steps = {**found["fingerprint"]}, found["steps"]
        if fingerprint["outputs"] is not None:
            content = base64.b64decode(fingerprint["outputs"], validate=True)
            fingerprint["outputs"] = np.frombuffer(content, "<f4")
        if steps is not None:
            steps = StepsCheck(**steps)
            if len(steps.positions) != len(steps.fell):
                raise ValueError("its counts contradict each other")
        return cls(**{**found, "fingerprint": fingerprint, "steps": steps})


def check_shard(shard: object) -> tuple[int, int]:
    """A pair (i, n) with 0 ≤ i < n, or a message."""
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise TypeError(
            "`shard` must be a pair (i, n): share i, counted from 0, of n. "
            f"Received: shard={shard!r}."
        )
    index, count = (validate.integer(0, shard=number) for number in shard)
    if index >= count:
        raise ValueError(
            "`shard` must be a pair (i, n) with i from 0 to n - 1, such as "
            f"(0, 4) for the first of four shares. Received: shard={shard!r}."
        )
    return index, count


def digest_of_order(places: Array) -> str:
    """The same for data that came in the same order, and no others."""
    content = np.ascontiguousarray(places, "<i8").tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()

"""What an evaluation has found: a number, and what is needed to believe it."""

import dataclasses
import json
from collections.abc import Iterable

import numpy as np

from keras_wake.evaluation.interval import CONFIDENCE
from keras_wake.evaluation.interval import METHOD
from keras_wake.evaluation.interval import percents
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.shard import Shard
from keras_wake.utils import validate
from keras_wake.utils.tables import class_table
from keras_wake.utils.tables import percent
from keras_wake.utils.tables import table
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The result of one attack of a list.

    Attributes:
        name: Its name in the report, such as `"APGD-CE"`.
        settings: The attack and its settings as text.
        epsilon: Its radius.
        attacked: How many samples stood before it.
        fell: How many of these it broke.
        accuracy: Accuracy after it, over all samples.
        interval: Confidence interval of this accuracy.
        forward_passes: At most so many, where a batch of n images counts as
            n. None if the attack does not tell.
        backward_passes: The same for gradients.
        seconds: Time that it took, including compilation.
        note: What the attack does where its published form is not defined,
            or None.
    """

    name: str
    settings: str
    epsilon: float
    attacked: int
    fell: int
    accuracy: float
    interval: tuple[float, float]
    forward_passes: int | None
    backward_passes: int | None
    seconds: float
    note: str | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What a `RobustnessReport` and an `EpsilonSweep` have in common."""

    norm: str
    bounds: tuple[float, float]
    seed: int
    passes_per_prediction: int
    findings: tuple[tuple[str, str], ...]
    date: str
    versions: dict[str, str]

    def to_dict(self) -> Json:
        """The numbers as lists and dictionaries."""
        return {
            "norm": self.norm,
            "bounds": list(self.bounds),
            "seed": self.seed,
            "passes_per_prediction": self.passes_per_prediction,
            "confidence": CONFIDENCE,
            "interval_method": METHOD,
            "findings": [
                {"code": code, "message": message}
                for code, message in self.findings
            ],
            "date": self.date,
            "versions": self.versions,
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON.

        Args:
            indent: Spaces of a level. Defaults to `None`: one line.
        """
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def text(self, above: list[str], tables: list[str]) -> str:
        """What `print` shows: lines, tables, and what makes them doubtful."""
        if self.passes_per_prediction > 1:
            above.append(
                "outputs are random: an image counts as correct if more than "
                f"half of {self.passes_per_prediction} passes classify it so"
            )
        if self.findings:
            tables += ["", "what makes these numbers doubtful"]
            tables += [f"[{code}] {message}" for code, message in self.findings]
        return "\n".join(above + tables)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RobustnessReport(Report):
    """Clean and robust accuracy. `print(report)` shows it as tables.

    Robust accuracy is an upper bound: another attack may break more. The
    intervals tell how the number depends on which images were sampled, not on
    which attacks were chosen.

    Attributes:
        version: `"standard"`, `"rand"` or `"custom"`.
        norm: Name of the norm.
        epsilon: The radius.
        bounds: Smallest and largest pixel value.
        seed: Seed of all random numbers.
        batch_size: Most images of a batch.
        class_names: K names.
        passes_per_prediction: 1, or 20 for a classifier with random outputs,
            where more than half of so many passes must be right.
        counts: Int64 array (K,), samples of each class.
        clean_counts: Int64 array (K,), how many are classified correctly.
        robust_counts: Int64 array (K,), how many stay so under every attack.
        attacks: Tuple of `AttackResult`, in the order in which they ran.
        findings: Tuple of pairs (code, message) of the reliability checks.
        date: Day and time at which this report was made, UTC.
        versions: Versions of keras-wake, Keras, NumPy and the backend.
        fallen_to: Int64 array (n,) in the order of the data: −1 for a sample
            that stands, 0 for one that is misclassified without an attack,
            i for one that fell to attack i, counted from 1. None if read
            from JSON.
        images: Float32 array (n, ...) in the order of the data: the image
            that is misclassified, else the clean one. None unless asked for.
        shard: Of a share of the images, which one it is, as `shard.index` of
            `shard.count`; all numbers are then about this share. None for
            a report of all images.
    """

    version: str
    epsilon: float
    batch_size: int
    class_names: list[str]
    counts: Array
    clean_counts: Array
    robust_counts: Array
    attacks: tuple[AttackResult, ...]
    fallen_to: Array | None = None
    images: Array | None = None
    shard: Shard | None = None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.counts.sum())

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are classified correctly."""
        return int(self.clean_counts.sum()) / self.samples

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that stay so under every attack."""
        return int(self.robust_counts.sum()) / self.samples

    @property
    def clean_interval(self) -> tuple[float, float]:
        """95 % interval of the clean accuracy (Wilson)."""
        return wilson_interval(int(self.clean_counts.sum()), self.samples)

    @property
    def robust_interval(self) -> tuple[float, float]:
        """95 % interval of the robust accuracy (Wilson)."""
        return wilson_interval(int(self.robust_counts.sum()), self.samples)

    @property
    def class_clean_accuracy(self) -> Array:
        """Float64 array (K,), NaN without samples."""
        return self.clean_counts / np.where(self.counts, self.counts, np.nan)

    @property
    def class_robust_accuracy(self) -> Array:
        """Float64 array (K,), NaN without samples."""
        return self.robust_counts / np.where(self.counts, self.counts, np.nan)

    @property
    def seconds(self) -> float:
        """Time of all attacks."""
        return sum(attack.seconds for attack in self.attacks)

    @property
    def forward_passes(self) -> int | None:
        """Forward passes of all attacks; None if those of one are unknown."""
        return _total(attack.forward_passes for attack in self.attacks)

    @property
    def backward_passes(self) -> int | None:
        """Backward passes of all attacks; None if those of one are unknown."""
        return _total(attack.backward_passes for attack in self.attacks)

    def to_dict(self) -> Json:
        """The numbers as lists and dictionaries, without images."""
        shard = {} if self.shard is None else {"shard": self.shard.to_dict()}
        return super().to_dict() | {
            **shard,
            "version": self.version,
            "epsilon": self.epsilon,
            "batch_size": self.batch_size,
            "samples": self.samples,
            "clean_accuracy": self.clean_accuracy,
            "clean_interval": list(self.clean_interval),
            "robust_accuracy": self.robust_accuracy,
            "robust_interval": list(self.robust_interval),
            "attacks": [
                {**vars(attack), "interval": list(attack.interval)}
                for attack in self.attacks
            ],
            "classes": [
                {
                    "name": name,
                    "samples": int(samples),
                    "clean": int(clean),
                    "robust": int(robust),
                    "clean_accuracy": clean / samples if samples else None,
                    "robust_accuracy": robust / samples if samples else None,
                }
                for name, samples, clean, robust in zip(
                    self.class_names,
                    self.counts.tolist(),
                    self.clean_counts.tolist(),
                    self.robust_counts.tolist(),
                    strict=True,
                )
            ],
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, text: str) -> "RobustnessReport":
        """The report of what `to_json` has returned, without images.

        Raises:
            TypeError, ValueError: If `text` is something else.
        """
        try:
            found = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`text` must be what `to_json` has returned: {error}. Of a "
                "file, pass `path.read_text()`."
            ) from error
        return cls.from_dict(found)

    @classmethod
    def from_dict(cls, found: Json) -> "RobustnessReport":
        """The report of what `to_dict` has returned, without images.

        Raises:
            ValueError: If `found` is something else.
        """
        names = "version norm epsilon seed batch_size date versions".split()
        try:
            if not isinstance(found, dict):
                raise ValueError(f"it is a {type(found).__name__}")
            classes = found["classes"]

            def counts(key: str) -> Array:
                return np.array([entry[key] for entry in classes], "int64")

            report = cls(
                **{name: found[name] for name in names},
                counts=counts("samples"),
                clean_counts=counts("clean"),
                robust_counts=counts("robust"),
                bounds=tuple(found["bounds"]),
                passes_per_prediction=found.get("passes_per_prediction", 1),
                class_names=[entry["name"] for entry in classes],
                attacks=tuple(
                    AttackResult(
                        **{**entry, "interval": tuple(entry["interval"])}
                    )
                    for entry in found["attacks"]
                ),
                findings=tuple(
                    (entry["code"], entry["message"])
                    for entry in found["findings"]
                ),
                shard=Shard.from_dict(found["shard"])
                if "shard" in found
                else None,
            )
            str(report)  # What cannot be shown is not one.
            return report
        except Exception as error:  # It may hold anything.
            raise ValueError(
                "This is not the dictionary, or JSON, of a `RobustnessReport`: "
                f"{validate.reason(error)}."
            ) from error

    def __str__(self) -> str:
        rows = [
            [
                attack.name,
                str(attack.attacked),
                str(attack.fell),
                percent(attack.accuracy),
                percents(attack.interval),
                _count(attack.forward_passes),
                _count(attack.backward_passes),
                f"{attack.seconds:.1f}",
            ]
            for attack in self.attacks
        ]
        header = [
            *("attack", "attacked", "fell", "accuracy after", "interval"),
            *("forward", "backward", "seconds"),
        ]
        above = [
            f"{self.samples} samples of {len(self.counts)} classes, "
            f"{self.norm}, epsilon {self.epsilon:.4g}, version "
            f"{self.version!r}, seed {self.seed}",
            f"clean accuracy {percent(self.clean_accuracy)} "
            f"{percents(self.clean_interval)}, robust accuracy "
            f"{percent(self.robust_accuracy)} "
            f"{percents(self.robust_interval)} ({CONFIDENCE:.0%} interval, "
            f"{METHOD})",
        ]
        if self.shard is not None:
            above.append(
                f"{self.shard} of {self.shard.samples} samples: these numbers "
                "are about its samples alone"
            )
        tables = [
            "",
            *table(header, rows),
            *(f"{a.name}: {a.note}" for a in self.attacks if a.note),
            "",
            *class_table(self.to_dict()["classes"], "robust_accuracy"),
        ]
        return self.text(above, tables)

    def __repr__(self) -> str:
        return (
            f"<RobustnessReport of {self.samples} samples: clean accuracy "
            f"{self.clean_accuracy:.1%}, robust accuracy "
            f"{self.robust_accuracy:.1%}>"
        )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _total(numbers: Iterable[int | None]) -> int | None:
    values = list(numbers)
    return None if None in values else sum(filter(None, values))

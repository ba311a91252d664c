"""What an evaluation has found: a number, and what is needed to believe it."""

import dataclasses
import json
from collections.abc import Iterable

import numpy as np

from keras_wake.evaluation import interval
from keras_wake.evaluation.report_text import report_text
from keras_wake.utils.types import Array
from keras_wake.utils.types import Json


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The result of one attack of a list.

    Attributes:
        name: Its name in the report, such as `"APGD-CE"`.
        settings: The attack and its settings as text.
        epsilon: Its radius.
        attacked: How many samples were classified rightly before it, and not
            broken by an earlier attack.
        fell: How many of these it broke.
        accuracy: Accuracy after it, over all samples.
        interval: Confidence interval of this accuracy.
        forward_passes: Upper bound of the forward passes, where a batch of n
            images counts as n. The passes that check the adversarial images
            are included. None if the attack does not tell.
        backward_passes: The same for gradients.
        seconds: Time that it took, including compilation.
        note: What the attack does where its published form is not defined.
            None if it runs as published.
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


class JsonReport:
    """Base of the reports that `to_dict` turns into JSON."""

    def to_dict(self) -> Json:
        """The numbers as lists and dictionaries."""
        raise NotImplementedError

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON.

        Args:
            indent: Spaces by which a level is indented. Defaults to `None`:
                one line.
        """
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RobustnessReport(JsonReport):
    """Clean and robust accuracy. `print(report)` shows it as tables.

    Robust accuracy is the share of samples that are classified rightly and
    that no attack has broken. It is an upper bound: another attack may break
    more. The intervals say what the choice of the samples leaves open, not
    what the choice of the attacks does.

    Attributes:
        version: `"standard"`, `"rand"` or `"custom"`.
        norm: Name of the norm.
        epsilon: The radius.
        bounds: Smallest and largest pixel value.
        seed: Seed of all random numbers.
        batch_size: Most images of a batch.
        class_names: K names.
        passes_per_prediction: 1, or 20 for a classifier with random outputs:
            a sample counts as classified rightly where more than half of so
            many passes are right.
        counts: Int64 array (K,), samples of each class.
        clean_counts: Int64 array (K,), how many of them are classified
            rightly.
        robust_counts: Int64 array (K,), how many are so under every attack.
        attacks: Tuple of `AttackResult`, in the order in which they ran.
        findings: Tuple of pairs (code, message): what the reliability checks
            have warned of.
        date: Day and time at which this report was made, UTC.
        versions: Versions of keras-wake, Keras, NumPy and the backend.
        fallen_to: Int64 array (n,) in the order of the data: −1 for a sample
            that stands, 0 for one that is misclassified without an attack,
            i for one that fell to attack i, counted from 1. None in a report
            that was read from JSON.
        images: Float32 array (n, ...) in the order of the data: the image
            that is misclassified, the clean one where there is none. None
            unless asked for.
    """

    version: str
    norm: str
    epsilon: float
    bounds: tuple[float, float]
    seed: int
    batch_size: int
    class_names: list[str]
    passes_per_prediction: int
    counts: Array
    clean_counts: Array
    robust_counts: Array
    attacks: tuple[AttackResult, ...]
    findings: tuple[tuple[str, str], ...]
    date: str
    versions: dict[str, str]
    fallen_to: Array | None = None
    images: Array | None = None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.counts.sum())

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are classified rightly."""
        return int(self.clean_counts.sum()) / self.samples

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that are so under every attack."""
        return int(self.robust_counts.sum()) / self.samples

    @property
    def clean_interval(self) -> tuple[float, float]:
        """95 % interval of the clean accuracy (Wilson)."""
        return interval.wilson_interval(
            int(self.clean_counts.sum()), self.samples
        )

    @property
    def robust_interval(self) -> tuple[float, float]:
        """95 % interval of the robust accuracy (Wilson)."""
        return interval.wilson_interval(
            int(self.robust_counts.sum()), self.samples
        )

    @property
    def class_clean_accuracy(self) -> Array:
        """Float64 array (K,), NaN without samples."""
        return self.clean_counts / _divisors(self.counts)

    @property
    def class_robust_accuracy(self) -> Array:
        """Float64 array (K,), NaN without samples."""
        return self.robust_counts / _divisors(self.counts)

    @property
    def seconds(self) -> float:
        """Time of all attacks."""
        return sum(attack.seconds for attack in self.attacks)

    @property
    def forward_passes(self) -> int | None:
        """Those of all attacks; None where one does not tell."""
        return _total(attack.forward_passes for attack in self.attacks)

    @property
    def backward_passes(self) -> int | None:
        """Those of all attacks; None where one does not tell."""
        return _total(attack.backward_passes for attack in self.attacks)

    def to_dict(self) -> Json:
        """The numbers as lists and dictionaries, without images."""
        return {
            "version": self.version,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "bounds": list(self.bounds),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "passes_per_prediction": self.passes_per_prediction,
            "samples": self.samples,
            "clean_accuracy": self.clean_accuracy,
            "clean_interval": list(self.clean_interval),
            "robust_accuracy": self.robust_accuracy,
            "robust_interval": list(self.robust_interval),
            "confidence": interval.CONFIDENCE,
            "interval_method": interval.METHOD,
            "attacks": [
                {**vars(attack), "interval": list(attack.interval)}
                for attack in self.attacks
            ],
            "classes": [
                {
                    "name": name,
                    "samples": int(self.counts[i]),
                    "clean": int(self.clean_counts[i]),
                    "robust": int(self.robust_counts[i]),
                    "clean_accuracy": _share(self.clean_counts, self.counts, i),
                    "robust_accuracy": _share(
                        self.robust_counts, self.counts, i
                    ),
                }
                for i, name in enumerate(self.class_names)
            ],
            "findings": [
                {"code": code, "message": message}
                for code, message in self.findings
            ],
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
            "seconds": self.seconds,
            "date": self.date,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, text: str) -> "RobustnessReport":
        """The report of what `to_json` has returned, without images.

        Raises:
            TypeError: If `text` is no text.
            ValueError: If it is not what `to_json` has returned.
        """
        if not isinstance(text, (str, bytes, bytearray)):
            raise TypeError(
                "`text` must be what `to_json` has returned; of a file, "
                "`path.read_text()`. Received: an object of type "
                f"{type(text).__name__}."
            )
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"`text` must be what `to_json` has returned: {error}. Of a "
                "file, pass `path.read_text()`."
            ) from error
        return cls.from_dict(found)

    @classmethod
    def from_dict(cls, found: Json) -> "RobustnessReport":
        """The report of what `to_dict` has returned, without images.

        Raises:
            ValueError: If it is not what `to_dict` has returned.
        """
        try:
            report = cls._from_dict(found)
            # What cannot be shown is not one.
            str(report)
            return report
        except ZeroDivisionError:
            reason = "it is of no samples"
        except KeyError as error:
            reason = f"it has no {error}"
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            reason = str(error)
        raise ValueError(
            "This is not the dictionary, or JSON, of a `RobustnessReport`: "
            f"{reason}."
        )

    @classmethod
    def _from_dict(cls, found: Json) -> "RobustnessReport":
        if not isinstance(found, dict):
            raise TypeError(f"it is a {type(found).__name__}")
        classes = found["classes"]

        def counts(key: str) -> Array:
            return np.array([entry[key] for entry in classes], "int64")

        return cls(
            **{
                name: found[name]
                for name in (
                    *("version", "norm", "epsilon", "seed", "batch_size"),
                    *("date", "versions"),
                )
            },
            bounds=tuple(found["bounds"]),
            # Older reports do not tell.
            passes_per_prediction=found.get("passes_per_prediction", 1),
            class_names=[entry["name"] for entry in classes],
            counts=counts("samples"),
            clean_counts=counts("clean"),
            robust_counts=counts("robust"),
            attacks=tuple(
                AttackResult(**{**entry, "interval": tuple(entry["interval"])})
                for entry in found["attacks"]
            ),
            findings=tuple(
                (entry["code"], entry["message"]) for entry in found["findings"]
            ),
        )

    def __str__(self) -> str:
        return report_text(self.to_dict())

    def __repr__(self) -> str:
        return (
            f"<RobustnessReport of {self.samples} samples: clean accuracy "
            f"{self.clean_accuracy:.1%}, robust accuracy "
            f"{self.robust_accuracy:.1%}>"
        )


def _divisors(counts: Array) -> Array:
    return np.where(counts == 0, np.nan, counts)


def _share(part: Array, counts: Array, i: int) -> float | None:
    return float(part[i] / counts[i]) if counts[i] else None


def _total(numbers: Iterable[int | None]) -> int | None:
    values = list(numbers)
    return None if None in values else sum(filter(None, values))

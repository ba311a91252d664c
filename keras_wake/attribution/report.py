"""A report on every class, from one pass over the data.

It tells which classes are robust, which are taken for which and which share
features, with images that show it.
"""

import dataclasses
import heapq
import json
import math
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np

from keras_wake.attacks import Attack
from keras_wake.attribution._examples import Candidates
from keras_wake.attribution._examples import Example
from keras_wake.attribution.correlation import cosine_matrix
from keras_wake.attribution.correlation import indices_of_largest
from keras_wake.attribution.correlation import quiet_cas
from keras_wake.attribution.vectors import analyse
from keras_wake.attribution.vectors import Bounds
from keras_wake.utils import tables
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json

# Images are kept for so many ordered pairs (i, j) at most: all of ten classes.
MOST_CANDIDATES = 100


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SharedPair:
    """Two classes, and how much they share.

    Attributes:
        classes: Their numbers (i, j), i < j.
        cosine: C[i, j], of their mean attribution vectors.
        confusions: How many samples of class i are taken for j, and how many
            of class j for i.
        examples: Two lists of `Example`, images of class i and of class j.
    """

    classes: tuple[int, int]
    cosine: float
    confusions: tuple[int, int]
    examples: tuple[list[Example], list[Example]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassReport:
    """What `class_report` has found. `print(report)` shows it as tables.

    Attributes:
        class_names: K names.
        attack: The attack and its settings, as text; None without one.
        counts: Int64 array (K,), samples of each class.
        clean_accuracy: Float64 array (K,), NaN without samples.
        robust_accuracy: The same under attack; None without an attack.
        confusion: Int64 array (K, K): how many samples of class i (row) are
            taken for class j (column) under attack, or on clean images
            without an attack.
        correlation: Float64 array (K, K), the class-wise correlation matrix.
        cas: CAS of this matrix.
        pairs: List of `SharedPair`, beginning with the largest cosine.
    """

    class_names: list[str]
    attack: str | None
    counts: Array
    clean_accuracy: Array
    robust_accuracy: Array | None
    confusion: Array
    correlation: Array
    cas: float
    pairs: list[SharedPair]

    @property
    def overall_clean_accuracy(self) -> float:
        """Clean accuracy over all samples."""
        hits = np.nansum(self.clean_accuracy * self.counts)
        return float(hits / self.counts.sum())

    @property
    def overall_robust_accuracy(self) -> float | None:
        """Robust accuracy over all samples; None without an attack."""
        if self.robust_accuracy is None:
            return None
        return float(np.trace(self.confusion) / self.counts.sum())

    def to_dict(self) -> dict[str, Json]:
        """The numbers as lists and dictionaries, with None in place of NaN.

        Example images are given by their places in the data.
        """
        return {
            "samples": int(self.counts.sum()),
            "attack": self.attack,
            "clean_accuracy": self.overall_clean_accuracy,
            "robust_accuracy": self.overall_robust_accuracy,
            "cas": _without_nan(self.cas),
            "classes": self._classes(),
            "pairs": [
                {
                    "classes": list(pair.classes),
                    "names": [self.class_names[i] for i in pair.classes],
                    "cosine": pair.cosine,
                    "confusions": list(pair.confusions),
                    "examples": [
                        [example.index for example in examples]
                        for examples in pair.examples
                    ],
                }
                for pair in self.pairs
            ],
            "confusion": self.confusion.tolist(),
            "correlation": _without_nan(self.correlation),
        }

    def _classes(self) -> list[Json]:
        robust = [None] * len(self.counts)
        if self.robust_accuracy is not None:
            robust = _without_nan(self.robust_accuracy)
        keys = ("name", "samples", "clean_accuracy", "robust_accuracy")
        counts, clean = self.counts.tolist(), _without_nan(self.clean_accuracy)
        columns = (self.class_names, counts, clean, robust)
        rows = zip(*columns, strict=True)
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON; NaN becomes null.

        Args:
            indent: As in `json.dumps`. Defaults to `None`: one line.
        """
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def __str__(self) -> str:
        names, classes = tables.shorten_all(self.class_names), len(self.counts)
        # A pair without a value adds nothing to CAS.
        left = classes - int(np.isnan(np.diagonal(self.correlation)).sum())
        most = left * (left - 1)
        cas = "-" if math.isnan(self.cas) else f"{self.cas:.1f} of {most}"
        if left < classes:
            cas += f" ({classes - left} of {classes} classes left out)"
        clean = tables.percent(self.overall_clean_accuracy)
        robust = tables.percent(self.overall_robust_accuracy)
        lines = [
            f"{self.counts.sum()} samples of {classes} classes, "
            f"{self.attack or 'clean images'}",
            f"clean accuracy {clean}, robust accuracy {robust}, CAS {cas}",
            "",
            *tables.class_table(
                self._classes(),
                "robust_accuracy" if self.attack else "clean_accuracy",
                {"most often taken for": self._most_often_taken_for(names)},
            ),
        ]
        if self.pairs:
            header = ["cosine", "class i", "class j"]
            header += ["i taken for j", "j taken for i"]
            rows = []
            for pair in self.pairs:
                i, j = pair.classes
                first, second = pair.confusions
                taken = [f"{first} of {self.counts[i]}"]
                taken.append(f"{second} of {self.counts[j]}")
                rows.append([f"{pair.cosine:.2f}", names[i], names[j], *taken])
            lines += ["", "the pairs that share most features"]
            lines += tables.table(header, rows)
        return "\n".join(lines)

    def _most_often_taken_for(self, names: list[str]) -> list[str]:
        cells = []
        for i, row in enumerate(self.confusion):
            others = row.copy()
            others[i] = 0
            most = int(others.argmax())
            share = tables.percent(float(row[most] / max(row.sum(), 1)))
            cells.append(f"{names[most]} ({share})" if others[most] else "-")
        return cells

    def __repr__(self) -> str:
        return (
            f"<ClassReport of {self.counts.sum()} samples, "
            f"{len(self.counts)} classes, CAS {self.cas:.1f}>"
        )


def class_report(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack | None = None,
    class_names: Sequence[str] | None = None,
    pairs: int = 10,
    examples: int = 4,
    head: str | keras.layers.Layer | None = None,
    batch_size: int = 128,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> ClassReport:
    """Accuracy, confusion and shared features of every class, in one pass.

    Every batch is attacked once. Its adversarial images give robust accuracy,
    confusion and the class-wise matrix of `correlation_matrix` with its CAS.
    The pairs of classes with the largest cosine C[i, j] are the ones that
    share most features.

    The examples of a pair (i, j) are the first images of class i that are
    taken for class j under attack, and the first images of class j that are
    taken for i. Where there are none, they are those in which the logit of the
    other class is least below the largest one, with `nearest=True`.

    Memory does not grow with the data: images are kept for at most 100 ordered
    pairs (or four times `pairs`, if that is more), those of the largest cosine
    so far. Shuffle data of more than ten classes: in data sorted by class, a
    cosine is unknown until both classes have been seen.

    Several processes share the batches, and all return the same report: see
    `attribution_vectors`.

    Args:
        classifier: Built `keras.Model`, as in `attribution_vectors`.
        data: As in `attribution_vectors`. It is read once.
        attack: The attack. Defaults to `None`: clean images only.
        class_names: K names. Defaults to the class numbers.
        pairs: How many pairs are reported. Defaults to `10`.
        examples: How many images are kept for (i, j) and for (j, i).
            Defaults to `4`.
        head: The head or its name. Defaults to `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack. Defaults to `0`.
        bounds: As in `attribution_vectors`. Defaults to `None`.

    Returns:
        A `ClassReport`.

    Raises:
        TypeError, ValueError: As `attribution_vectors`, or if `class_names`
            are not K.

    Example:

    ```python
    report = kw.attribution.class_report(classifier, (x, y), attack)
    print(report)
    kw.visualization.plot_class_report(report, path="classes.png")
    ```
    """
    pairs = validate.integer(0, pairs=pairs)
    examples = validate.integer(0, examples=examples)
    means, batches = analyse(
        classifier, data, attack, head, batch_size, seed, bounds, clean=True
    )
    names = validate.names_of_classes(class_names, len(means.counts))
    confusion = np.zeros((len(names), len(names)), "int64")
    clean_hits = np.zeros(len(names), "int64")
    candidates = Candidates(examples, max(MOST_CANDIDATES, 4 * pairs))
    for batch in batches:
        bad = int(np.isnan(batch.logits).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"The classifier {classifier.name!r} returns NaN for {bad} of "
                f"{len(batch.logits)} images of a batch, and so predicts no "
                "class. Look for a square root or a logarithm of 0 in it."
            )
        means.add(batch)
        predictions = batch.logits.argmax(axis=1)
        np.add.at(confusion, (batch.labels, predictions), 1)
        clean = batch.labels == batch.clean_logits.argmax(axis=1)
        np.add.at(clean_hits, batch.labels, clean)
        candidates.add(batch, means, confusion)
    divisors = np.where(means.counts == 0, np.nan, means.counts)
    robust = np.diagonal(confusion) / divisors
    matrix, kept = cosine_matrix(means.result()), candidates.kept
    return ClassReport(
        class_names=names,
        attack=None if attack is None else repr(attack),
        counts=means.counts,
        clean_accuracy=clean_hits / divisors,
        robust_accuracy=None if attack is None else robust,
        confusion=confusion,
        correlation=matrix,
        # The matrix has warned of classes without an attribution vector.
        cas=quiet_cas(matrix)[0],
        pairs=[
            SharedPair(
                (i, j),
                float(matrix[i, j]),
                (int(confusion[i, j]), int(confusion[j, i])),
                (kept.get((i, j), []), kept.get((j, i), [])),
            )
            for i, j in _largest_pairs(matrix, pairs)
        ],
    )


def _largest_pairs(matrix: Array, count: int) -> list[tuple[int, int]]:
    """The places i < j of the largest values; of equal ones the first."""

    def largest_of_rows() -> Iterator[tuple[float, int, int]]:
        # Row by row, as the places of all would take as much as the matrix.
        for i, row in enumerate(matrix):
            values = np.nan_to_num(row[i + 1 :], nan=-np.inf)
            places = indices_of_largest(values, count)
            places = places[np.isfinite(values[places])]
            order = np.argsort(-values[places], kind="stable")[:count]
            for j in places[order].tolist():
                yield -values[j], i, i + 1 + j

    return [(i, j) for _, i, j in heapq.nsmallest(count, largest_of_rows())]


def _without_nan(values: float | Array) -> Json:
    """Numbers as JSON has them: lists, and None in place of NaN."""
    return np.where(np.isnan(values), np.array(None), values).tolist()

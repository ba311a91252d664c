"""A report on every class, from one pass over the data.

It tells which classes are robust, which are taken for which and which share
features, with images that show it.
"""

import dataclasses
import json
import math
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
from keras_wake.attribution.vectors import ClassMeans
from keras_wake.utils import validate
from keras_wake.utils.tables import class_table
from keras_wake.utils.tables import percent
from keras_wake.utils.tables import shorten_all
from keras_wake.utils.tables import table
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
        examples: Two lists of `Example`: images of class i that are taken
            for j, and images of class j that are taken for i. Where there
            are none, the images that come nearest to it, with
            `nearest=True`.
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
        return float(np.nansum(self.clean_accuracy * self.counts)) / int(
            self.counts.sum()
        )

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
            "cas": _number(self.cas),
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
            "correlation": [
                [None if value != value else value for value in row.tolist()]
                for row in self.correlation
            ],
        }

    def _classes(self) -> list[Json]:
        robust = self.robust_accuracy
        return [
            {
                "name": name,
                "samples": int(self.counts[i]),
                "clean_accuracy": _number(self.clean_accuracy[i]),
                "robust_accuracy": None
                if robust is None
                else _number(robust[i]),
            }
            for i, name in enumerate(self.class_names)
        ]

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON; NaN becomes null.

        Args:
            indent: Spaces by which each level is indented. Defaults to
                `None`: everything in one line.
        """
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        names, classes = shorten_all(self.class_names), len(self.counts)
        # A pair without a value adds nothing to CAS.
        left = classes - int(np.isnan(np.diagonal(self.correlation)).sum())
        most = left * (left - 1)
        cas = "-" if math.isnan(self.cas) else f"{self.cas:.1f} of {most}"
        if left < classes:
            cas += f" ({classes - left} of {classes} classes left out)"
        lines = [
            f"{self.counts.sum()} samples of {classes} classes, "
            f"{self.attack or 'clean images'}",
            f"clean accuracy {percent(self.overall_clean_accuracy)}, robust "
            f"accuracy {percent(self.overall_robust_accuracy)}, CAS {cas}",
            "",
            *class_table(
                self._classes(),
                "robust_accuracy" if self.attack else "clean_accuracy",
                {"most often taken for": self._most_often_taken_for(names)},
            ),
        ]
        if not self.pairs:
            return lines
        header = ["cosine", "class i", "class j"]
        header += ["i taken for j", "j taken for i"]
        rows = []
        for pair in self.pairs:
            taken = (
                f"{count} of {self.counts[i]}"
                for count, i in zip(pair.confusions, pair.classes, strict=True)
            )
            both = (names[i] for i in pair.classes)
            rows.append([f"{pair.cosine:.2f}", *both, *taken])
        title = "the pairs that share most features"
        return [*lines, "", title, *table(header, rows)]

    def _most_often_taken_for(self, names: list[str]) -> list[str]:
        cells = []
        for i, row in enumerate(self.confusion):
            others = row.copy()
            others[i] = 0
            most = int(others.argmax())
            share = percent(float(row[most] / max(row.sum(), 1)))
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
    The clean images give clean accuracy. The pairs of classes with the largest
    cosine C[i, j] are the ones that share most features.

    The examples of a pair (i, j) are the first images of class i that are
    taken for class j under attack, and the first images of class j that are
    taken for i. Where there are none, the images are kept in which the logit
    of the other class is least below the largest one; they have
    `nearest=True`.

    Memory does not grow with the data. It holds a batch, the class sums, the
    confusion matrix and the images of at most 100 ordered pairs (or four times
    `pairs`, if that is more), which take 8·100·`examples` bytes per pixel
    value. With more than ten classes there are more pairs, and only those of
    the largest cosine so far are kept. Shuffle such data: in data sorted by
    class, a cosine is unknown until both classes have been seen.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches. It
            is read once.
        attack: The attack. Defaults to `None`: everything is of clean images,
            and there is no robust accuracy.
        class_names: K names. Defaults to the class numbers.
        pairs: How many pairs are reported. Defaults to `10`.
        examples: How many images of a pair are kept for each of its two
            directions. Defaults to `4`.
        head: Dense layer that makes the logits, or its name. Defaults to
            `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        A `ClassReport`.

    Raises:
        TypeError, ValueError: As `attribution_vectors`, or if `class_names`
            are not K.

    Example:

    ```python
    report = kw.attribution.class_report(
        classifier, (x_test, y_test), attack=kw.attacks.PGD(steps=20)
    )
    print(report)
    kw.visualization.plot_class_report(report, path="classes.png")
    kw.visualization.plot_shared_pairs(report, path="pairs.png")
    ```
    """
    pairs = validate.integer(0, pairs=pairs)
    examples = validate.integer(0, examples=examples)
    sizes, batches = analyse(
        classifier,
        data,
        attack,
        head,
        batch_size,
        seed,
        clean=True,
        bounds=bounds,
    )
    names = validate.names_of_classes(class_names, sizes.classes)
    means = ClassMeans(sizes)
    confusion = np.zeros((sizes.classes, sizes.classes), "int64")
    clean_hits = np.zeros(sizes.classes, "int64")
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
        np.add.at(confusion, (batch.labels, batch.predictions), 1)
        clean = batch.labels == batch.clean_predictions
        np.add.at(clean_hits, batch.labels, clean)
        candidates.add(batch, means, confusion)
    counts = means.counts
    divisors = np.where(counts == 0, np.nan, counts)
    matrix = cosine_matrix(means.result())
    # The matrix has warned of classes without an attribution vector.
    score, _ = quiet_cas(matrix)
    return ClassReport(
        class_names=names,
        attack=None if attack is None else repr(attack),
        counts=counts,
        clean_accuracy=clean_hits / divisors,
        robust_accuracy=None
        if attack is None
        else np.diagonal(confusion) / divisors,
        confusion=confusion,
        correlation=matrix,
        cas=score,
        pairs=[
            SharedPair(
                classes=(i, j),
                cosine=float(matrix[i, j]),
                confusions=(int(confusion[i, j]), int(confusion[j, i])),
                examples=(
                    candidates.kept.get((i, j), []),
                    candidates.kept.get((j, i), []),
                ),
            )
            for i, j in _largest_pairs(matrix, pairs)
        ],
    )


def _largest_pairs(matrix: Array, count: int) -> list[tuple[int, int]]:
    """The places i < j of the largest values; of equal ones the first."""
    found = np.empty((0, 3))
    if not count:
        return []
    # Row by row, as the places of all would take as much as the matrix.
    for i in range(len(matrix) - 1):
        values = np.nan_to_num(matrix[i, i + 1 :], nan=-np.inf)
        places = indices_of_largest(values, count)
        places = places[np.isfinite(values[places])]
        if len(found) == count:
            places = places[values[places] > found[-1, 0]]
        if len(places):
            row = np.full(len(places), i)
            new = np.stack([values[places], row, i + 1 + places], axis=1)
            found = np.concatenate([found, new])
            order = np.argsort(-found[:, 0], kind="stable")
            found = found[order[:count]]
    return [(int(i), int(j)) for _, i, j in found]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

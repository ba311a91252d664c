"""The few images of a class report, kept while the data pass by.

Which pairs of classes share most is known only at the end of the pass, when
the images are gone. So images of the pairs that share most so far are kept,
for a bounded number of pairs: the first ones that are confused, and while
there are none, those that come nearest to it.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_wake.attribution.correlation import indices_of_largest
from keras_wake.attribution.correlation import unit_vectors
from keras_wake.attribution.vectors import Batch
from keras_wake.attribution.vectors import ClassMeans

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Example:
    """An image of one class that is taken for another, or nearly so.

    Attributes:
        index: Its place in the order of the data, from 0.
        image: Float32 array, the clean image.
        adversarial: Float32 array, what the classifier saw; the clean image
            where there is no attack.
        nearest: Whether it only comes near to being taken for the other
            class. Defaults to `False`: it is taken for it.
        gap: By how much the logit of the other class is below the largest
            one. Defaults to `0.0`.
    """

    index: int
    image: np.ndarray
    adversarial: np.ndarray
    nearest: bool = False
    gap: float = 0.0


class Candidates:
    """Images of the ordered pairs of classes that share most.

    Of class i for the pair (i, j): the first that are taken for j or, until
    one is, those whose logit of j is least below the largest logit.

    Args:
        examples: How many images are kept of a pair.
        most_pairs: Of how many ordered pairs.
    """

    def __init__(self, examples: int, most_pairs: int) -> None:
        self.examples, self.most_pairs = examples, most_pairs
        self.kept: dict[Pair, list[Example]] = {}
        self.seen = 0

    def add(
        self, batch: Batch, means: ClassMeans, confusion: np.ndarray
    ) -> None:
        """Keeps the images of a batch that are wanted.

        Args:
            batch: The batch.
            means: Class vectors so far, this batch included.
            confusion: Confusion matrix so far, this batch included.
        """
        if self.examples:
            wanted = self._wanted(batch, means, confusion)
            found = _BatchImages(batch, self.seen)
            kept = {
                (i, j): self._updated(self.kept.get((i, j), []), found, i, j)
                for i, j in wanted
            }
            self.kept = {
                pair: images for pair, images in kept.items() if images
            }
        self.seen += len(batch.labels)

    def _wanted(
        self, batch: Batch, means: ClassMeans, confusion: np.ndarray
    ) -> list[Pair]:
        """The pairs of the largest cosine so far, the most confused first.

        Only pairs with images in this batch or kept from earlier ones are
        compared, not all K².
        """
        unit = unit_vectors(means.result())
        i, j, cosines = self._pairs_of_batch(batch, unit)
        present = set(batch.labels.tolist())
        kept = [pair for pair in self.kept if pair[0] not in present]
        if kept:
            first, second = np.array(kept).T
            i, j = np.append(i, first), np.append(j, second)
            more = (unit[first] * unit[second]).sum(axis=1)
            cosines = np.append(cosines, np.nan_to_num(more, nan=-1.0))
        # By cosine, then by confusion, then by the class numbers.
        order = np.lexsort((j, i, -confusion[i, j], -cosines))
        order = order[: self.most_pairs]
        return list(zip(i[order].tolist(), j[order].tolist(), strict=True))

    def _pairs_of_batch(
        self, batch: Batch, unit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs (i, j) with an image of i in the batch, and their cosines.

        Only those of the largest cosines, ties included.
        """
        rows = np.unique(batch.labels)
        # Some classes may not have been seen yet.
        known = np.nan_to_num(unit[rows] @ unit.T, nan=-1.0).clip(-1.0, 1.0)
        # A class is not paired with itself.
        known[np.arange(len(rows)), rows] = -np.inf
        places = indices_of_largest(known.ravel(), self.most_pairs)
        places = places[np.isfinite(known.ravel()[places])]
        i, j = rows[places // len(unit)], places % len(unit)
        return i, j, known.ravel()[places]

    def _updated(
        self, kept: list[Example], batch: "_BatchImages", i: int, j: int
    ) -> list[Example]:
        """What is kept of the pair (i, j) after a batch."""
        members = batch.places_of(i)
        if not len(members):
            return kept
        confused = members[batch.predictions[members] == j]
        if len(confused) or (kept and not kept[0].nearest):
            kept = [example for example in kept if not example.nearest]
            room = self.examples - len(kept)
            return kept + [batch.example(place) for place in confused[:room]]
        gaps = batch.gaps(members, j)
        for n in np.argsort(gaps, kind="stable")[: self.examples]:
            full = len(kept) == self.examples
            if not np.isfinite(gaps[n]) or (full and gaps[n] >= kept[-1].gap):
                break
            image = batch.example(members[n], nearest=True, gap=float(gaps[n]))
            # Stable: of two that are equally near, the first stays first.
            kept = sorted([*kept, image], key=lambda example: example.gap)
            kept = kept[: self.examples]
        return kept


class _BatchImages:
    """A batch, whose images are fetched only if one of them is wanted."""

    def __init__(self, batch: Batch, first: int) -> None:
        self._batch, self._first = batch, first
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None
        self.predictions = batch.predictions
        self._largest = batch.logits.max(axis=1)

    def places_of(self, label: int) -> np.ndarray:
        """The places of the images of a class."""
        return np.flatnonzero(self._batch.labels == label)

    def gaps(self, places: np.ndarray, other: int) -> np.ndarray:
        """By how much the logit of a class is below the largest one."""
        return self._largest[places] - self._batch.logits[places, other]

    def example(
        self, place: int, nearest: bool = False, gap: float = 0.0
    ) -> Example:
        """A copy, which does not keep the whole batch in memory."""
        if self._arrays is None:
            self._arrays = (
                ops.convert_to_numpy(self._batch.images),
                ops.convert_to_numpy(self._batch.adversarial),
            )
        clean, adversarial = (np.array(each[place]) for each in self._arrays)
        index = self._first + int(place)
        return Example(index, clean, adversarial, nearest, gap)

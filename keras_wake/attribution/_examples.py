"""The images of a class report, chosen while the data are read once.

Which pairs of classes share most is known only at the end, when the images are
gone. So images are kept for those pairs that share most so far.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_wake.attribution.batches import Batch
from keras_wake.attribution.correlation import indices_of_largest
from keras_wake.attribution.correlation import unit_vectors
from keras_wake.attribution.vectors import ClassMeans
from keras_wake.utils.types import Array

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Example:
    """An image of one class that is taken for another, or nearly so.

    Attributes:
        index: Its place in the order of the data, from 0.
        image: Float32 array, the clean image.
        adversarial: Float32 array, what the classifier saw; the clean image
            where there is no attack.
        nearest: Whether it only comes near to it. Defaults to `False`.
        gap: By how much the logit of the other class is below the largest
            one. Defaults to `0.0`.
    """

    index: int
    image: Array
    adversarial: Array
    nearest: bool = False
    gap: float = 0.0


class Candidates:
    """At most `examples` images for each of `most_pairs` ordered pairs.

    For the pair (i, j): the first images of class i that are taken for j or,
    until there is one, those whose logit of j is least below the largest.
    """

    def __init__(self, examples: int, most_pairs: int) -> None:
        self.examples, self.most_pairs = examples, most_pairs
        self.kept: dict[Pair, list[Example]] = {}
        self.seen = 0

    def add(self, batch: Batch, means: ClassMeans, confusion: Array) -> None:
        """Keeps what is wanted of a batch, which the others include."""
        if self.examples:
            clean = ops.convert_to_numpy(batch.images)
            adversarial = ops.convert_to_numpy(batch.adversarial)
            kept = {
                pair: self._updated(pair, batch, clean, adversarial)
                for pair in self._wanted(batch, means, confusion)
            }
            self.kept = {pair: found for pair, found in kept.items() if found}
        self.seen += len(batch.labels)

    def _wanted(
        self, batch: Batch, means: ClassMeans, confusion: Array
    ) -> list[Pair]:
        """The pairs of the largest cosine so far, the most confused first.

        Only pairs with images in this batch or kept from earlier ones are
        compared, not all K².
        """
        unit = unit_vectors(means.result())
        rows = np.unique([*batch.labels, *(i for i, _ in self.kept)])
        # Some classes may not have been seen yet.
        cosines = np.nan_to_num(unit[rows] @ unit.T, nan=-1.0).clip(-1.0, 1.0)
        has_images = np.zeros(cosines.shape, bool)
        has_images[np.isin(rows, batch.labels)] = True
        for pair in self.kept:
            has_images[np.searchsorted(rows, pair[0]), pair[1]] = True
        # A class is not paired with itself.
        has_images[np.arange(len(rows)), rows] = False
        places, j = np.nonzero(has_images)
        i, cosines = rows[places], cosines[places, j]
        largest = indices_of_largest(cosines, self.most_pairs)
        i, j, cosines = i[largest], j[largest], cosines[largest]
        # By cosine, then by confusion, then by the class numbers.
        keys = (j, i, -confusion[i, j], -cosines)
        order = np.lexsort(keys)[: self.most_pairs]
        return list(zip(i[order].tolist(), j[order].tolist(), strict=True))

    def _updated(
        self, pair: Pair, batch: Batch, clean: Array, adversarial: Array
    ) -> list[Example]:
        """What is kept of the pair (i, j) after a batch."""
        kept = self.kept.get(pair, [])
        members = np.flatnonzero(batch.labels == pair[0])
        if not len(members):
            return kept
        logits = batch.logits[members]
        confused = logits.argmax(axis=1) == pair[1]
        gaps = logits.max(axis=1) - logits[:, pair[1]]
        nearest = not confused.any() and all(e.nearest for e in kept)
        if not nearest:
            kept = [example for example in kept if not example.nearest]
            members, gaps = members[confused], np.zeros(confused.sum())
        for n in np.argsort(gaps, kind="stable")[: self.examples]:
            full = len(kept) == self.examples
            if not np.isfinite(gaps[n]) or (full and gaps[n] >= kept[-1].gap):
                break
            # Copies: views would keep the whole batch in memory.
            place = members[n]
            image, seen = clean[place].copy(), adversarial[place].copy()
            index, gap = self.seen + int(place), float(gaps[n])
            kept.append(Example(index, image, seen, nearest, gap))
            # Stable: of two that are equally near, the first stays first.
            kept = sorted(kept, key=lambda example: example.gap)
            kept = kept[: self.examples]
        return kept

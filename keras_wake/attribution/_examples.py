"""The few images of a class report, kept while the data pass by.

Which pairs of classes share most is known only at the end of the pass, when
the images are gone. So the first images of every pair that is confused are
kept, for a bounded number of pairs.
"""

import dataclasses
import math
import warnings

import numpy as np
from keras import ops

from keras_wake.attribution.correlation import cosine_matrix
from keras_wake.attribution.vectors import Batch
from keras_wake.attribution.vectors import ClassMeans


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Example:
    """An image of one class that is taken for another.

    Attributes:
        index: Its place in the order of the data, from 0.
        image: Float32 array, the clean image.
        adversarial: Float32 array, what the classifier got wrong; the clean
            image where there is no attack.
    """

    index: int
    image: np.ndarray
    adversarial: np.ndarray


class Candidates:
    """The first images of each ordered pair of classes that is confused.

    Args:
        examples: How many images are kept of a pair.
        most_pairs: Of how many ordered pairs.
    """

    def __init__(self, examples: int, most_pairs: int) -> None:
        self.examples, self.most_pairs = examples, most_pairs
        self.kept: dict[tuple[int, int], list[Example]] = {}
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
        labels, predictions = batch.labels.tolist(), batch.predictions.tolist()
        pairs = list(zip(labels, predictions, strict=True))
        wanted = [
            place
            for place, (label, predicted) in enumerate(pairs)
            if label != predicted and self._has_room(label, predicted)
        ]
        if wanted:
            clean = ops.convert_to_numpy(batch.images)
            adversarial = ops.convert_to_numpy(batch.adversarial)
        for place in wanted:
            # Asked again: others of the batch may have filled the pair.
            if self._has_room(*pairs[place]):
                # Copies, which do not keep the whole batch in memory.
                example = Example(
                    self.seen + place,
                    np.array(clean[place]),
                    np.array(adversarial[place]),
                )
                self.kept.setdefault(pairs[place], []).append(example)
        self.seen += len(pairs)
        if len(self.kept) > self.most_pairs:
            self._forget(means, confusion)

    def _has_room(self, label: int, predicted: int) -> bool:
        return len(self.kept.get((label, predicted), [])) < self.examples

    def _forget(self, means: ClassMeans, confusion: np.ndarray) -> None:
        """Drops the pairs of the smallest cosine."""
        with warnings.catch_warnings():
            # Some classes may not have been seen yet.
            warnings.simplefilter("ignore")
            cosines = cosine_matrix(means.result())

        def rank(pair: tuple[int, int]) -> tuple[float, int]:
            cosine = float(cosines[pair])
            known = -1.0 if math.isnan(cosine) else cosine
            return -known, -int(confusion[pair])

        kept = sorted(self.kept, key=rank)[: self.most_pairs]
        self.kept = {pair: self.kept[pair] for pair in kept}

"""The batches of an analysis, which several processes share."""

import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.checkpoint import architecture
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor


class Batch(NamedTuple):
    """A batch and what the classifier computed for it.

    Attributes:
        images: Tensor (batch, ...), clean.
        adversarial: Tensor (batch, ...); `images` if there is no attack.
        labels: (batch,), class numbers.
        clean_logits: Float32 (batch, K); `logits` if not asked for.
        logits: Float32 (batch, K), of the adversarial images.
        vectors: Float32 (batch, n), A(x) of the adversarial images.
    """

    images: Tensor
    adversarial: Tensor
    labels: Array
    clean_logits: Array
    logits: Array
    vectors: Array


# Images and labels, before they are analysed.
Pair = tuple[Tensor, Tensor]


def shared_batches(
    classifier: keras.Model,
    pairs: Iterator[Pair],
    analysed: Callable[[int, Tensor, Tensor], Batch],
) -> Iterator[Batch]:
    """Yields `analysed(number, *pair)` for all pairs, numbered from 0.

    Each of n processes analyses every n-th batch, and sends the result to the
    others: every process yields all batches, in their order. Where their
    weights differ, as by moving statistics of batch norm, the first process
    analyses all.
    """
    process, processes = backend.processes(classifier)
    if processes == 1:
        for number, pair in enumerate(pairs):
            yield analysed(number, *pair)
        return
    weights = architecture.weights_digest(classifier)
    digests = backend.gather_objects(classifier, weights)
    sharing = processes if len(set(digests)) == 1 else 1
    number, size = 0, sharing
    # A round in which there are fewer batches than processes is the last.
    while size == sharing:
        taken = [pair for _, pair in zip(range(sharing), pairs, strict=False)]
        own = None
        if process < len(taken):
            own = analysed(number + process, *taken[process])
            # The other processes have the clean images themselves.
            seen = ops.convert_to_numpy(own.adversarial)
            own = own._replace(images=None, adversarial=seen)
        passed_on = (list(map(_checksum, taken)), own)
        found = backend.gather_objects(classifier, passed_on)
        if any(sums != found[0][0] for sums, _ in found):
            raise ValueError(
                "Every process must be given the same data in the same order, "
                "of which it takes its share. Received: other images or labels "
                f"than another process, from batch {number + 1} on."
            )
        for (x, _), (_, batch) in zip(taken, found, strict=False):
            yield batch._replace(images=x)
        size, number = len(taken), number + len(taken)


def _checksum(pair: Pair) -> int:
    total = 0
    for tensor in pair:
        content = np.ascontiguousarray(ops.convert_to_numpy(tensor))
        total = zlib.crc32(content.tobytes(), total)
    return total

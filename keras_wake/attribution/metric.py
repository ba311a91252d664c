"""CAS as a Keras metric, accumulated batch by batch in the validation pass."""

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attribution.correlation import quiet_cosine_matrix
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor

# The similarities of so many classes are in memory at once.
_ROWS = 1024


class ClassAttributionSimilarity(keras.metrics.Metric):
    """CAS of everything seen since the last reset.

    The state is the sum of attribution vectors of each class and the number
    of samples, so replicas and batches add up.
    """

    def __init__(self, num_classes: int, features: int, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.sums = self.add_variable(
            (num_classes, features),
            initializer="zeros",
            dtype="float32",
            name="sums",
        )
        self.counts = self.add_variable(
            (num_classes,), initializer="zeros", dtype="float32", name="counts"
        )

    def update_state(
        self,
        labels: Tensor,
        features: Tensor,
        kernel: Tensor,
        present: Tensor | None = None,
    ) -> None:
        """Adds a batch of labels (batch, K) and features g(x + δ) (batch, n).

        Samples count whose labels are not all 0 and, if it is given, for which
        `present` (batch,) is true. The kernel (n, K) is that of the head.
        """
        if present is not None:
            features = ops.where(present[:, None], features, 0.0)
            labels = ops.where(present[:, None], labels, 0.0)
        classes = ops.one_hot(
            ops.argmax(labels, axis=-1), labels.shape[-1], dtype="float32"
        )
        named = ops.cast(ops.any(labels > 0, axis=-1), "float32")
        classes = classes * named[:, None]
        features = ops.cast(features, "float32")
        weights = ops.transpose(ops.cast(kernel, "float32"))
        # Sums of g(x) first: the weights are the same for the whole class.
        sums = ops.matmul(ops.transpose(classes), features) * weights
        self.sums.assign_add(sums)
        self.counts.assign_add(ops.sum(classes, axis=0))

    def result(self) -> Tensor:
        """CAS, a float32 scalar; classes without a direction are left out.

        NaN if fewer than two classes are left, because 0 means that the
        classes share nothing.
        """
        # The mean of a class has the direction of its sum.
        sums = ops.convert_to_tensor(self.sums)
        norms = ops.sqrt(ops.sum(ops.square(sums), axis=1, keepdims=True))
        # A class without a direction, or one that is not finite, adds nothing.
        valid = ops.logical_and(norms > 0, ops.isfinite(norms))
        unit = ops.where(valid, sums / ops.where(valid, norms, 1.0), 0.0)
        score = 0.0
        for start in range(0, unit.shape[0], _ROWS):
            rows = unit[start : start + _ROWS]
            part = ops.maximum(ops.matmul(rows, ops.transpose(unit)), 0.0)
            own = ops.diagonal(part, offset=start)
            score += ops.sum(part) - ops.sum(own)
        left = ops.sum(ops.cast(valid, "int32"))
        # 0 / 0: at a constant NaN `tf.debugging.enable_check_numerics` would
        # always stop.
        known = ops.cast(left >= 2, "float32")
        return score * known / known

    def matrix(self) -> Array:
        """The correlation matrix (K, K) as a float64 array."""
        return quiet_cosine_matrix(backend.to_numpy(self.sums))

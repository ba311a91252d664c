"""The shape of the images that a classifier takes."""

import dataclasses
from typing import Any

from keras import ops


@dataclasses.dataclass(frozen=True)
class ImageShape:
    """The shape of the images that a classifier takes.

    Attributes:
        sizes: Of an image; None where the classifier leaves one open.
        classifier: Its name, for the message.
    """

    sizes: tuple[int | None, ...]
    classifier: str

    def check(self, x: Any) -> None:
        """Refuses images of another shape.

        Keras would add or drop a last axis of size 1, which a compiled attack
        cannot, and a `Flatten` would take axes in any order.
        """
        expected = ", ".join(map(str, self.sizes))
        must = (
            f"Images must have shape (batch, {expected}), as the classifier "
            f"{self.classifier!r} takes them. Received: "
        )
        if rank_is_unknown(x):
            raise ValueError(
                f"{must}images of unknown rank. Either an earlier call had "
                "images of another rank (call `compile` again), or the data "
                "set has no static shape (set it with `tf.ensure_shape`)."
            )
        shape = tuple(x.shape)
        if self._fits(shape[1:]):
            return
        hint = "Resize the images, or build the classifier for their shape."
        if self._fits(shape):
            hint = (
                "Give a single image a batch axis: `x[None]`. Batch a data "
                "set: `dataset.batch(128)`."
            )
        raise ValueError(f"{must}shape {shape}. {hint}")

    def check_in_step(self, x: Any) -> tuple[Any, tuple[Any, ...]]:
        """Compares the sizes that are known only when a compiled step runs.

        Args:
            x: Images that were checked when the step was traced.

        Returns:
            Whether they fit: True, or a tensor where TensorFlow has left
            sizes open; and the shape that they should have.
        """
        count, *found = ops.shape(x)
        right: Any = True
        for size, wanted in zip(found, self.sizes, strict=True):
            if wanted is not None and not isinstance(size, int):
                right = ops.logical_and(right, ops.equal(size, wanted))
        sizes = [
            size if wanted is None else wanted
            for size, wanted in zip(found, self.sizes, strict=True)
        ]
        return right, (count, *sizes)

    def _fits(self, sizes: tuple[int | None, ...]) -> bool:
        return len(sizes) == len(self.sizes) and all(
            None in pair or pair[0] == pair[1]
            for pair in zip(sizes, self.sizes, strict=True)
        )


def rank_is_unknown(value: Any) -> bool:
    """Whether TensorFlow does not know the rank of a tensor."""
    return getattr(value.shape, "rank", 0) is None

"""Images in memory, and where the pixels of an augmented one come from."""

import dataclasses

import numpy as np

AUGMENTATIONS = ("crop_flip", "flip", "none")
CROP_PADDING = 4


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images as uint8 `(N, H, W, C)`, their labels and their white value."""

    images: np.ndarray
    labels: np.ndarray
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "ImageArrays":
        """The images at `positions`, in that order."""
        return dataclasses.replace(
            self, images=self.images[positions], labels=self.labels[positions]
        )

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1]."""
        return unit_range(self.images, self.white)


def unit_range(pixels: np.ndarray, white: int) -> np.ndarray:
    """Pixel values as float32 in [0, 1]."""
    return np.divide(pixels, np.float32(white), dtype=np.float32)


def source_pixels(
    augment: str, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every way of taking rows and columns that an augmentation chooses from.

    Args:
        augment: One of `AUGMENTATIONS`.
        height: Rows of an image.
        width: Columns of an image.

    Returns:
        int32 `(ways, height)` and `(ways, width)`: for each way, the row
        (column) of the original that each row (column) of the result shows.
    """
    offsets = np.arange(-CROP_PADDING, CROP_PADDING + 1)
    if augment != "crop_flip":
        offsets = np.zeros(1, int)
    rows, columns = (_reflected(offsets, side) for side in (height, width))
    if augment != "none":
        columns = np.concatenate([columns, columns[:, ::-1]])
    return rows.astype(np.int32), columns.astype(np.int32)


def _reflected(offsets: np.ndarray, side: int) -> np.ndarray:
    """Pixel numbers `(offsets, side)`; beyond an edge the image is mirrored."""
    shifted = np.abs(np.arange(side) + offsets[:, np.newaxis])
    return (side - 1) - np.abs((side - 1) - shifted)

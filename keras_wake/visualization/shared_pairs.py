"""Images of the class pairs that share most features."""

from typing import Any
from typing import TYPE_CHECKING

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.tables import shorten_all
from keras_wake.visualization import _figure
from keras_wake.visualization.class_report import check_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Wider, a line of a page would not hold its images.
MOST_EXAMPLES = 6


def plot_shared_pairs(
    report: Any, pairs: int = 5, path: _figure.FilePath | None = None
) -> "Figure":
    """Draws the class pairs that share most features, with examples.

    One row for each pair, those of the largest cosine first. On the left are
    images of class i that are taken for class j, on the right images of class
    j that are taken for class i: as the classifier saw them, so under attack
    if the report is of an attack. The line above says how many there are.
    Where there are none, it says "nearest", and the images are those that
    come nearest to being taken for the other class.

    Args:
        report: What `keras_wake.attribution.class_report` has returned, for
            images (H, W, C) with one or three channels. Images that leave
            [0, 1] are scaled, all by the same.
        pairs: How many pairs are drawn. Defaults to `5`.
        path: File to write, ending in .png, .pdf or .svg. Defaults to
            `None`, which writes nothing.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        TypeError: If `report` is no class report.
        ValueError: If the report holds no examples, or not of images.

    Example:

    ```python
    report = keras_wake.attribution.class_report(classifier, test, attack)
    keras_wake.visualization.plot_shared_pairs(report, path="pairs.png")
    ```
    """
    check_report(report)
    shown = report.pairs[: validate.integer(1, pairs=pairs)]
    low, high = _range([e for p in shown for part in p.examples for e in part])
    across = max(len(part) for pair in shown for part in pair.examples)
    across = min(across, MOST_EXAMPLES)
    side = 0.95
    figure = _figure.new_figure(
        max(2 * across * side + 0.6, 6.0), (side + 0.3) * len(shown) + 0.1
    )
    rows = figure.subfigures(len(shown), squeeze=False)[:, 0]
    for row, pair in zip(rows, shown, strict=True):
        halves = row.subfigures(1, 2, wspace=0.04)
        for half, examples, text in zip(
            halves, pair.examples, _texts(report, pair), strict=True
        ):
            half.suptitle(text, fontsize=8, parse_math=False)
            panels = half.subplots(1, across, squeeze=False)[0]
            for panel in panels:
                panel.axis("off")
            for panel, example in zip(panels, examples, strict=False):
                _show(panel, (example.adversarial - low) / (high - low))
            if not examples:
                panels[0].text(0, 0.5, "no example", fontsize=8, color="0.4")
    return _figure.save(figure, path)


def _texts(report: Any, pair: Any) -> list[str]:
    """The lines above the images, in both directions."""
    texts = []
    names = shorten_all(report.class_names, 16)
    for (true, predicted), count, examples in zip(
        (pair.classes, pair.classes[::-1]),
        pair.confusions,
        pair.examples,
        strict=True,
    ):
        first, second = names[true], names[predicted]
        total = int(report.counts[true])
        near = ", nearest" if any(e.nearest for e in examples) else ""
        texts.append(f"{first} → {second}: {count} of {total}{near}")
    texts[0] = f"cosine {pair.cosine:.2f}    {texts[0]}"
    return texts


def _range(examples: list[Any]) -> tuple[float, float]:
    """The values of black and white; checks that there are images."""
    if not examples:
        raise ValueError(
            "The report holds no example images: it was made with "
            "`examples=0` or `pairs=0`, or no two classes have an attribution."
        )
    shape = examples[0].adversarial.shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(
            "Only images of shape (H, W, C) with one or three channels can be "
            f"drawn. Received: a report on images of shape {shape}."
        )
    low = min(float(example.adversarial.min()) for example in examples)
    high = max(float(example.adversarial.max()) for example in examples)
    if low >= -1e-6 and high <= 1 + 1e-6:
        return 0.0, 1.0
    return low, high


def _show(panel: "Axes", image: np.ndarray) -> None:
    grey = image.shape[-1] == 1
    panel.imshow(
        np.clip(image[..., 0] if grey else image, 0.0, 1.0),
        cmap="gray" if grey else None,
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
    )

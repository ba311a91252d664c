"""Grid of clean images, magnified perturbations and adversarial images."""

import math
from collections.abc import Sequence

import numpy as np

from keras_wake.utils import validate
from keras_wake.utils.tables import shorten_all
from keras_wake.utils.types import Array
from keras_wake.utils.types import Tensor
from keras_wake.visualization import _figure

SAMPLES_PER_BAND = 8
MOST_SAMPLES = 32
# Rounding in an attack may leave the bounds by this much.
TOLERANCE = 1e-6


def plot_adversarial_examples(
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    predictions: Tensor,
    adversarial_predictions: Tensor,
    class_names: Sequence[str] | None = None,
    magnify: float | None = None,
    path: _figure.FilePath | None = None,
) -> _figure.Figure:
    """Draws samples with their perturbation and what the network saw.

    One column per sample: the clean image with its true class above and its
    predicted class below, the perturbation (mid-grey where nothing changes),
    and the adversarial image with its predicted class, red if it is wrong.

    Args:
        images: At most 32 clean images `(N, H, W, C)` in [0, 1], C = 1 or 3.
        adversarial: Adversarial images of the same shape.
        labels: True classes, `(N,)` numbers or `(N, K)` one-hot.
        predictions: Classes predicted for `images`, `(N,)` numbers or
            `(N, K)` logits.
        adversarial_predictions: The same for `adversarial`.
        class_names: K names. Defaults to the class numbers.
        magnify: Factor of the perturbations. Defaults to `None`: the largest
            one just fits between black and white.
        path: File to write (.png, .pdf or .svg). Defaults to `None`: none.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    ```python
    seen = attack(classifier, x, y)
    kw.visualization.plot_adversarial_examples(
        x, seen, y, classifier.predict(x), classifier.predict(seen)
    )
    ```
    """
    clean = _check_images(images=images)
    changed = _check_images(adversarial=adversarial)
    if clean.shape != changed.shape:
        raise ValueError(
            "`images` and `adversarial` must have the same shape. Received: "
            f"{clean.shape} and {changed.shape}."
        )
    count = len(clean)
    truth = _check_classes(count, labels=labels)
    before = _check_classes(count, predictions=predictions)
    after = _check_classes(
        count, adversarial_predictions=adversarial_predictions
    )
    highest = int(np.max([truth, before, after]))
    names = validate.names_of_classes(None, highest + 1)
    if class_names is not None:
        names = shorten_all(validate.list_of_names(class_names), 14)
    if len(names) <= highest:
        raise ValueError(
            f"`class_names` must name all classes up to number {highest}. "
            f"Received {len(names)}: class_names={class_names!r}."
        )
    delta = changed - clean
    factor = _magnification(delta, magnify)
    rows = {
        "clean": clean,
        f"perturbation\n× {factor:g}": 0.5 + factor * delta,
        "adversarial": changed,
    }
    figure, columns = _grid(count)
    for sample, panels in enumerate(columns):
        for panel, (row, pictures) in zip(panels, rows.items(), strict=True):
            _figure.draw_image(panel, pictures[sample])
            if sample % SAMPLES_PER_BAND == 0:
                panel.set_ylabel(row, fontsize=8)
        title = f"true: {names[truth[sample]]}"
        panels[0].set_title(title, fontsize=7, pad=3, parse_math=False)
        _write_prediction(panels[0], names, before[sample], truth[sample])
        _write_prediction(panels[2], names, after[sample], truth[sample])
    figure.supxlabel("below an image: predicted class, ✗ = wrong", fontsize=7)
    return _figure.save(figure, path)


def _check_images(**kwargs: Tensor) -> Array:
    (name,) = kwargs
    images = validate.floats(**kwargs)
    wanted = images.ndim == 4 and images.shape[-1] in (1, 3)
    if not wanted or not 1 <= len(images) <= MOST_SAMPLES:
        raise ValueError(
            f"`{name}` must be between 1 and {MOST_SAMPLES} images of shape "
            "(N, H, W, C) with one or three channels. Received: shape "
            f"{images.shape}. Pass a part of them."
        )
    low, high = float(images.min()), float(images.max())
    # Written so that NaN, which compares as false, is refused as well.
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(
            f"`{name}` must lie in [0, 1]. Received: values from {low:g} to "
            f"{high:g}."
        )
    return np.clip(images, 0.0, 1.0)


def _check_classes(count: int, **kwargs: Tensor) -> Array:
    name, value = validate.name_and_value(kwargs)
    numbers = validate.floats(**kwargs)
    if numbers.ndim == 2 and numbers.shape[1] > 0:
        numbers = numbers.argmax(axis=-1).astype("float64")
    are_whole = ((numbers >= 0) & (numbers == np.floor(numbers))).all()
    if numbers.shape != (count,) or not are_whole:
        raise ValueError(
            f"`{name}` must hold {count} class numbers, integers from 0 on, "
            f"or be of shape ({count}, K). Received: shape {np.shape(value)}, "
            f"{name}={value!r}."
        )
    return numbers.astype("int64")


def _magnification(delta: Array, magnify: float | None) -> float:
    if magnify is not None:
        return validate.positive(magnify=magnify)
    largest = float(np.abs(delta).max())
    if largest <= TOLERANCE:
        return 1.0
    factor = 0.5 / largest
    # Rounded down to a number that reads well: nothing is cut off by it.
    # The small addition keeps 0.5 / (8 / 256) at 16 after float32 rounding.
    scale = 1 if factor >= 10 else 10
    return max(math.floor(factor * scale * (1 + 1e-5)) / scale, 0.1)


def _grid(count: int) -> tuple[_figure.Figure, list[list[_figure.Axes]]]:
    """An empty figure and, for each sample, its three panels."""
    across = min(count, SAMPLES_PER_BAND)
    bands = math.ceil(count / across)
    # Wide enough for the line at the bottom when there is one sample.
    width = max(0.9 + 1.05 * across, 3.4)
    figure = _figure.new_figure(width, 3.8 * bands + 0.3)
    axes = figure.subplots(3 * bands, across, squeeze=False)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    # Bands of three rows, one after the other.
    columns = axes.reshape(bands, 3, across).swapaxes(1, 2).reshape(-1, 3)
    return figure, columns[:count].tolist()


def _write_prediction(
    panel: _figure.Axes, names: list[str], predicted: int, truth: int
) -> None:
    wrong = predicted != truth
    panel.set_xlabel(
        f"{'✗ ' if wrong else ''}{names[predicted]}",
        fontsize=7,
        labelpad=2,
        parse_math=False,
        color="#B00020" if wrong else "black",
        fontweight="bold" if wrong else "normal",
    )

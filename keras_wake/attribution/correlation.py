"""The matrices of cross-class attribution and their score CAS.

Class-wise as in Algorithm 1 of the paper, or instance-wise as in section D.4.
"""

import math
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from keras_wake.attacks import Attack
from keras_wake.attribution.vectors import attribution_vectors
from keras_wake.attribution.vectors import Bounds
from keras_wake.attribution.vectors import instance_vectors
from keras_wake.data.classifier import check_classifier
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Tensor


def cosine_matrix(vectors: Tensor) -> Array:
    """Cosine similarity of every pair of rows.

    C[i, j] = v_i · v_j / (‖v_i‖ ‖v_j‖). A row that is zero or not finite has
    no direction: it gives NaN in its row and column and a warning.

    Args:
        vectors: Float array (K, n), one attribution vector for each class.

    Returns:
        Float64 array (K, K), symmetric, with diagonal 1.

    Raises:
        ValueError: If `vectors` is not (K, n).

    Example:

    >>> cosine_matrix([[1.0, 0.0], [1.0, 1.0]]).round(2)
    array([[1.  , 0.71],
           [0.71, 1.  ]])
    """
    matrix = quiet_cosine_matrix(vectors)
    _warn_of_missing(np.isnan(np.diagonal(matrix)))
    return matrix


# The next functions leave warnings to the caller: silencing them with
# `warnings.catch_warnings` would silence other threads as well.


def quiet_cosine_matrix(vectors: Tensor) -> Array:
    """`cosine_matrix` without its warning."""
    vectors = validate.floats(vectors=vectors)
    if vectors.ndim != 2:
        raise ValueError(
            "`vectors` must have shape (classes, features). Received: shape "
            f"{vectors.shape}."
        )
    unit = unit_vectors(vectors)
    matrix = unit @ unit.T
    np.clip(matrix, -1.0, 1.0, out=matrix)
    np.fill_diagonal(matrix, np.where(np.isnan(unit).any(axis=1), np.nan, 1.0))
    return matrix


def unit_vectors(vectors: Array) -> Array:
    """Rows of length 1; NaN for one that is zero or not finite."""
    norms = np.linalg.norm(vectors, axis=1)
    norms[~((norms > 0) & np.isfinite(norms))] = np.nan
    return vectors / norms[:, None]


def indices_of_largest(values: Array, count: int) -> Array:
    """Indices of the `count` largest values, including ties."""
    if len(values) <= count:
        return np.arange(len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    return np.flatnonzero(values >= least)


def quiet_cas(matrix: Tensor) -> tuple[float, int]:
    """`cas` without its warning, and how many entries are left out."""
    matrix = validate.floats(matrix=matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            "`matrix` must be square, (classes, classes). Received: shape "
            f"{matrix.shape}."
        )
    score, left_out = 0.0, 0
    # Row by row, to avoid a copy of a 10,000 x 10,000 matrix.
    for i, row in enumerate(matrix):
        others = row.copy()
        others[i] = 0
        left_out += int(np.isnan(others).sum())
        # NaN counts as 0.
        score += float(np.fmax(others, 0).sum())
    nothing = left_out > 0 and left_out == matrix.size - len(matrix)
    return math.nan if nothing else score, left_out


def cas(matrix: Tensor) -> float:
    """Class attribution similarity: how much the classes share features.

    CAS = Σ_{i≠j} max(C[i, j], 0), from 0 to K(K − 1). NaN entries are left
    out, and their number is reported by a warning; if all are NaN, so is CAS.

    Args:
        matrix: Float array (K, K), a correlation matrix.

    Returns:
        A float.

    Raises:
        ValueError: If `matrix` is not square.

    Example:

    >>> cas([[1.0, 0.5], [0.5, 1.0]])
    1.0
    """
    score, left_out = quiet_cas(matrix)
    if left_out:
        entries = len(matrix) * (len(matrix) - 1)
        warnings.warn(
            f"{left_out} of {entries} entries of the matrix are NaN and left "
            "out of CAS.",
            stacklevel=2,
        )
    return score


def correlation_matrix(
    classifier: keras.Model,
    data: Dataset,
    attack: Attack | None = None,
    head: str | keras.layers.Layer | None = None,
    batch_size: int = 128,
    seed: int = 0,
    mode: str = "class",
    block_size: int = 1024,
    bounds: Bounds | None = None,
) -> Array:
    """Cross-class feature attribution matrix (Algorithm 1).

    In the mode `"class"`, C[i, j] is the cosine of the mean attribution
    vectors of classes i and j, see `attribution_vectors`. In the mode
    `"instance"`, it is the mean over the samples of class i of their largest
    cosine with a sample of class j, see `instance_correlation`; all vectors
    are kept in memory, see `instance_vectors`. A class without samples, or
    with zero vectors only, gives NaN in its row and column and a warning.

    Several processes share the batches, and all return the same matrix: see
    `attribution_vectors`.

    Args:
        classifier: Built `keras.Model`, as in `attribution_vectors`.
        data: As in `attribution_vectors`.
        attack: The attack that makes δ. Defaults to `None`: clean images.
        head: The head or its name. Defaults to `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack. Defaults to `0`.
        mode: `"class"` or `"instance"`. Defaults to `"class"`.
        block_size: As in `instance_correlation`. Defaults to `1024`.
        bounds: As in `attribution_vectors`. Defaults to `None`.

    Returns:
        Float64 array (K, K) with diagonal 1.

    Raises:
        TypeError, ValueError: As `attribution_vectors`.

    Example:

    ```python
    attack = kw.attacks.PGD(steps=20)
    matrix = kw.attribution.correlation_matrix(classifier, (x, y), attack)
    print(kw.attribution.cas(matrix))
    ```
    """
    validate.one_of(("class", "instance"), mode=mode)
    block_size = validate.integer(1, block_size=block_size)
    given = (classifier, data, attack, head, batch_size, seed, bounds)
    if mode == "class":
        return cosine_matrix(attribution_vectors(*given))
    num_classes = check_classifier(classifier)
    return instance_correlation(
        *instance_vectors(*given), num_classes, block_size
    )


def instance_correlation(
    vectors: Tensor,
    labels: Tensor,
    num_classes: int | None = None,
    block_size: int = 1024,
) -> Array:
    """Instance-wise correlation of attribution vectors (section D.4).

    C[i, j] is the mean over the samples x of class i of the maximum over the
    samples x' of class j of cos(A(x), A(x')). It is not symmetric. For i = j
    the sample itself is among the x', so the diagonal is 1.

    The N² cosines are computed in blocks, exactly and in float64. With b =
    `block_size`, n features and K classes it takes 2·N²·n floating-point
    operations and at most 8·(b² + 4·b·n + 4·b·K + 8·N + 2·K²) bytes in
    addition to `vectors`: 26 MB for 10,000 samples, 512 features and ten
    classes at the default.

    Samples whose vector is zero or not finite are left out, with a warning.
    A class without any others gives NaN in its row and column, and a warning.

    Args:
        vectors: Float array (N, n), one attribution vector for each sample,
            as `instance_vectors` returns them. It may be a `numpy.memmap`.
        labels: Integer array (N,), the class of each sample.
        num_classes: K. Defaults to `None`: the largest label plus 1.
        block_size: How many samples are compared with how many at once,
            which bounds the memory. Defaults to `1024`.

    Returns:
        Float64 array (K, K).

    Raises:
        TypeError: If `labels` are not integers.
        ValueError: If the shapes do not fit, or if a label is out of range.

    Example:

    >>> vectors = [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]
    >>> instance_correlation(vectors, [0, 0, 1])
    array([[1. , 0.5],
           [1. , 1. ]])
    """
    vectors, labels = np.asarray(vectors), np.asarray(labels)
    num_classes = _check(vectors, labels, num_classes)
    block_size = validate.integer(1, block_size=block_size)
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), block_size):
        block = vectors[start : start + block_size].astype("float64")
        norms[start : start + block_size] = np.linalg.norm(block, axis=1)
    # The samples that have a direction, sorted by class.
    order = np.argsort(labels, kind="stable")
    order = order[(norms[order] > 0) & np.isfinite(norms[order])]

    def blocks() -> Iterator[tuple[Array, Array]]:
        """Unit vectors and their classes."""
        for start in range(0, len(order), block_size):
            part = order[start : start + block_size]
            # Not kept, which would take a copy of all vectors.
            yield vectors[part] / norms[part][:, None], labels[part]

    sums = np.zeros((num_classes, num_classes))
    for left, classes in blocks():
        best = np.full((len(left), num_classes), -np.inf)
        for right, others in blocks():
            # The samples are sorted by class, so that a class is a range.
            found, starts = np.unique(others, return_index=True)
            highest = np.maximum.reduceat(left @ right.T, starts, axis=1)
            best[:, found] = np.maximum(best[:, found], highest)
        found, starts = np.unique(classes, return_index=True)
        np.clip(best, -1.0, 1.0, out=best)
        sums[found] += np.add.reduceat(best, starts, axis=0)
    counts = np.bincount(labels[order], minlength=num_classes)
    missing = counts == 0
    sums /= np.where(missing, np.nan, counts)[:, None]
    # Each sample is most similar to itself; this removes the rounding.
    np.fill_diagonal(sums, 1.0)
    sums[missing, :] = sums[:, missing] = np.nan
    left_out = len(vectors) - len(order)
    if left_out:
        warnings.warn(
            f"{left_out} samples have a zero attribution vector, or one that "
            "is not finite. They are left out.",
            stacklevel=2,
        )
    _warn_of_missing(missing)
    return sums


def _warn_of_missing(missing: Array) -> None:
    """Warns of the classes that have no value in a matrix."""
    if missing.any():
        numbers = np.flatnonzero(missing).tolist()
        more = f" and {len(numbers) - 20} more" if len(numbers) > 20 else ""
        warnings.warn(
            f"{len(numbers)} of {len(missing)} classes have no samples or no "
            "attribution vector other than zero: their rows and columns of "
            f"the matrix are NaN. Classes: {numbers[:20]}{more}.",
            stacklevel=3,
        )


def _check(vectors: Array, labels: Array, num_classes: int | None) -> int:
    """Checks shapes and labels, and returns K."""
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(
            "`vectors` must have shape (samples, features). Received: shape "
            f"{vectors.shape}."
        )
    if labels.shape != vectors.shape[:1]:
        raise ValueError(
            "`labels` must hold one class number for each of the "
            f"{len(vectors)} samples. Received: shape {labels.shape}. From "
            "one-hot labels: `labels.argmax(axis=-1)`."
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            "`labels` must be integers, the class numbers. Received: dtype "
            f'{labels.dtype}. Convert them: `labels.astype("int32")`.'
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if num_classes is None:
        num_classes = highest + 1
    num_classes = validate.integer(1, num_classes=num_classes)
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"`labels` must be between 0 and {num_classes - 1} for "
            f"num_classes={num_classes}. Received: labels from {lowest} to "
            f"{highest}."
        )
    return num_classes

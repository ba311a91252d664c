"""The matrices of cross-class attribution and their score CAS.

Class-wise as in Algorithm 1 of the paper, or instance-wise as in section D.4.
"""

import math
import warnings

import keras
import numpy as np

from keras_wake.attacks import Attack
from keras_wake.attribution.instance import instance_correlation
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
    missing = np.isnan(np.diagonal(matrix))
    if missing.any():
        warnings.warn(
            f"{missing.sum()} of {len(missing)} classes have no samples or a "
            "zero attribution vector: their rows and columns of the matrix "
            f"are NaN. Classes: {first_of(np.flatnonzero(missing))}.",
            stacklevel=2,
        )
    return matrix


def first_of(classes: Array) -> str:
    """The first 20 class numbers, for a message."""
    if len(classes) <= 20:
        return str(classes.tolist())
    return f"{classes[:20].tolist()} and {len(classes) - 20} more"


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
    known = np.flatnonzero(~np.isnan(unit).any(axis=1))
    cosines = unit[known] @ unit[known].T
    np.clip(cosines, -1.0, 1.0, out=cosines)
    np.fill_diagonal(cosines, 1.0)
    if len(known) == len(unit):
        return cosines
    matrix = np.full((len(unit), len(unit)), np.nan)
    matrix[np.ix_(known, known)] = cosines
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
    classes = len(matrix)
    score, left_out = 0.0, 0
    # Row by row, to avoid a copy of a 10,000 x 10,000 matrix.
    for i in range(classes):
        others = matrix[i].copy()
        others[i] = 0
        left_out += int(np.isnan(others).sum())
        # NaN counts as 0.
        score += float(np.fmax(others, 0).sum())
    if left_out and left_out == classes * (classes - 1):
        return math.nan, left_out
    return score, left_out


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
        classes = len(matrix)
        warnings.warn(
            f"{left_out} of {classes * (classes - 1)} entries of the matrix "
            "are NaN and left out of CAS.",
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
    vectors of classes i and j, see `attribution_vectors`; the matrix is
    symmetric. In the mode `"instance"`, C[i, j] is the mean over the samples
    of class i of their largest cosine with a sample of class j, see
    `instance_correlation`; the matrix is not symmetric, and all vectors are
    kept in memory, twice 4·N·n bytes.

    A class without samples, or without an attribution vector other than
    zero, gives NaN in its row and column and a warning.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: The attack; PGD with 20 steps is usual. Defaults to `None`:
            clean images.
        head: Dense layer that makes the logits, or its name. Defaults to
            `None`: find it.
        batch_size: Size of the batches of arrays. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.
        mode: `"class"` or `"instance"`. Defaults to `"class"`.
        block_size: In the mode `"instance"`, how many samples are compared
            with how many at once, which bounds the memory. Defaults to
            `1024`.
        bounds: Smallest and largest pixel value. Defaults to `None`: the
            bounds of the attack. Without an attack any values are accepted,
            except images that look like [0, 255].

    Returns:
        Float64 array (K, K) with diagonal 1.

    Raises:
        TypeError, ValueError: As `attribution_vectors`.

    Example:

    ```python
    matrix = kw.attribution.correlation_matrix(
        classifier, (x_test, y_test), attack=kw.attacks.PGD(steps=20)
    )
    print(kw.attribution.cas(matrix))
    ```
    """
    validate.one_of(("class", "instance"), mode=mode)
    block_size = validate.integer(1, block_size=block_size)
    if mode == "class":
        return cosine_matrix(
            attribution_vectors(
                classifier, data, attack, head, batch_size, seed, bounds
            )
        )
    num_classes = check_classifier(classifier)
    vectors, labels = instance_vectors(
        classifier, data, attack, head, batch_size, seed, bounds
    )
    return instance_correlation(vectors, labels, num_classes, block_size)

"""The class-wise attribution matrix and its score CAS (Algorithm 1)."""

import math
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_wake import _batches
from keras_wake import _inputs
from keras_wake import _validate
from keras_wake import backend
from keras_wake._per_model import PerModel
from keras_wake.attacks import Attack
from keras_wake.attribution.head import find_head
from keras_wake.attribution.head import logits_and_features

# By classifier and then by head: a network may be analysed at several heads,
# and several networks may share one.
_COMPILED = PerModel()


def cosine_matrix(vectors: Any) -> np.ndarray:
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
    vectors = np.asarray(vectors, "float64")
    if vectors.ndim != 2:
        raise ValueError(
            "`vectors` must have shape (classes, features). Received: shape "
            f"{vectors.shape}."
        )
    norms = np.linalg.norm(vectors, axis=1)
    missing = ~((norms > 0) & np.isfinite(norms))
    norms[missing] = np.nan
    unit = vectors / norms[:, None]
    matrix = np.clip(unit @ unit.T, -1.0, 1.0)
    np.fill_diagonal(matrix, 1.0)
    matrix[missing, :] = np.nan
    matrix[:, missing] = np.nan
    if missing.any():
        warnings.warn(
            f"{missing.sum()} of {len(missing)} classes have no samples or a "
            "zero attribution vector: their rows and columns of the matrix "
            f"are NaN. Classes: {np.flatnonzero(missing).tolist()}.",
            stacklevel=2,
        )
    return matrix


def cas(matrix: Any) -> float:
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
    matrix = np.asarray(matrix, "float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            "`matrix` must be square, (classes, classes). Received: shape "
            f"{matrix.shape}."
        )
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    left_out = int(np.isnan(others).sum())
    if left_out:
        warnings.warn(
            f"{left_out} of {others.size} entries of the matrix are NaN and "
            "left out of CAS.",
            stacklevel=2,
        )
    if left_out and left_out == others.size:
        return math.nan
    return float(np.maximum(others[~np.isnan(others)], 0).sum())


def attribution_vectors(
    classifier: Any,
    data: Any,
    attack: Any = None,
    head: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """Mean attribution vector of every class.

    A(x) = g(x + δ) ⊙ W[y], averaged over all samples of class y, whether the
    classifier gets them right or not. The bias takes no part.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches:
            images (batch, ...) within the attack's bounds, labels as class
            numbers or one-hot.
        attack: What makes δ. Defaults to `None`: δ = 0, clean images.
        head: Name of the Dense layer or the layer, where it cannot be found.
        batch_size: How arrays are cut. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.

    Returns:
        Float64 array (K, n). A class without samples gives a row of NaN.

    Raises:
        TypeError, ValueError: For a classifier without a head that can be
            found, or data that cannot be right.

    Example:

    ```python
    vectors = attribution_vectors(classifier, (x, y), attack=PGD(steps=20))
    ```
    """
    num_classes = _inputs.check_classifier(classifier)
    head = find_head(classifier, head, num_classes)
    if not isinstance(attack, (Attack, type(None))):
        raise TypeError(
            "`attack` must be an attack such as `keras_wake.attacks.PGD()`, "
            f"or None for clean images. Received: attack={attack!r}."
        )
    batch_size = _validate.integer(1, batch_size=batch_size)
    seed = _validate.integer(0, seed=seed)
    bounds = attack.bounds if attack is not None else (-np.inf, np.inf)
    by_head = _COMPILED.get(classifier, lambda _: PerModel())
    compile_sums = partial(_compile_sums, weakref.ref(classifier))
    compiled = by_head.get(head, compile_sums)
    sums = np.zeros((num_classes, head.kernel.shape[0]))
    counts = np.zeros(num_classes)
    checked = _batches.checked_batches(data, num_classes, bounds, batch_size)
    for number, (x, labels) in enumerate(checked):
        _inputs.check_rank(x, classifier)
        if attack is not None:
            start = (seed + 7919 * number) % 2**31
            x = attack(classifier, x, labels, seed=start)
        batch = compiled(x, labels)
        sums += ops.convert_to_numpy(batch[0])
        counts += ops.convert_to_numpy(batch[1])
    counts[counts == 0] = np.nan
    return sums / counts[:, None]


def _compile_sums(classifier: Callable, head: Callable) -> Callable:
    """Compiles `class_sums` of a batch; the arguments are weak references."""

    def sums(x: Any, labels: Any) -> tuple[Any, Any]:
        _, features = logits_and_features(classifier(), head(), x)
        return class_sums(labels, features, head().kernel)

    return backend.compile(sums, classifier)


def class_sums(labels: Any, features: Any, kernel: Any) -> tuple[Any, Any]:
    """Sums of attribution vectors by class, and how many there are.

    Args:
        labels: Float tensor (batch, K); the class of a sample is its largest
            entry. A sample whose entries are all 0 does not count.
        features: Float tensor (batch, n), g(x + δ).
        kernel: Float tensor (n, K), the weights of the head.

    Returns:
        Float32 tensors (K, n) and (K,).
    """
    num_classes = labels.shape[-1]
    classes = ops.one_hot(ops.argmax(labels, axis=-1), num_classes)
    named = ops.cast(ops.any(labels > 0, axis=-1), "float32")
    classes = ops.cast(classes, "float32") * named[:, None]
    summed = ops.matmul(ops.transpose(classes), ops.cast(features, "float32"))
    weights = ops.transpose(ops.cast(kernel, "float32"))
    return summed * weights, ops.sum(classes, axis=0)


def correlation_matrix(
    classifier: Any,
    data: Any,
    attack: Any = None,
    head: Any = None,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """Cross-class feature attribution matrix (Algorithm 1).

    C[i, j] is the cosine of the mean attribution vectors of classes i and j,
    see `attribution_vectors`. A class without samples, or whose vector is
    zero, gives NaN in its row and column and a warning.

    Args:
        classifier: Built `keras.Model`, images to logits, ending in a Dense
            layer.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attack: What makes the adversarial images; PGD with 20 steps is usual.
            Defaults to `None`: clean images.
        head: Name of the Dense layer or the layer, where it cannot be found.
        batch_size: How arrays are cut. Defaults to `128`.
        seed: Integer seed of the attack's random starts. Defaults to `0`.

    Returns:
        Float64 array (K, K), symmetric, with diagonal 1.

    Raises:
        TypeError, ValueError: As `attribution_vectors`.

    Example:

    ```python
    matrix = keras_wake.attribution.correlation_matrix(
        classifier, (x_test, y_test), attack=keras_wake.attacks.PGD(steps=20)
    )
    print(keras_wake.attribution.cas(matrix))
    ```
    """
    return cosine_matrix(
        attribution_vectors(classifier, data, attack, head, batch_size, seed)
    )

"""Cross-class feature attribution: vectors, correlation matrix and CAS."""

from keras_wake.attribution.correlation import attribution_vectors
from keras_wake.attribution.correlation import cas
from keras_wake.attribution.correlation import correlation_matrix
from keras_wake.attribution.correlation import cosine_matrix
from keras_wake.attribution.head import find_head

__all__ = [
    "attribution_vectors",
    "cas",
    "correlation_matrix",
    "cosine_matrix",
    "find_head",
]

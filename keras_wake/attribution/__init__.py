"""Cross-class feature attribution: vectors, matrices, CAS, class report."""

from keras_wake.attribution.correlation import cas
from keras_wake.attribution.correlation import correlation_matrix
from keras_wake.attribution.correlation import cosine_matrix
from keras_wake.attribution.correlation import instance_correlation
from keras_wake.attribution.head import find_head
from keras_wake.attribution.report import class_report
from keras_wake.attribution.report import ClassReport
from keras_wake.attribution.vectors import attribution_vectors
from keras_wake.attribution.vectors import instance_vectors

__all__ = [
    "ClassReport",
    "attribution_vectors",
    "cas",
    "class_report",
    "correlation_matrix",
    "cosine_matrix",
    "find_head",
    "instance_correlation",
    "instance_vectors",
]

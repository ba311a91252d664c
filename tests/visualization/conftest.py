"""A class report that is made up."""

import numpy as np
import pytest

from keras_wake.attribution import ClassReport


@pytest.fixture
def make_report():
    """Makes a report in which two classes are taken for others."""

    def make(classes=3, attack="PGD()", names=None, pairs=(), matrix=None):
        counts = np.full(classes, 10)
        confusion = np.diag(counts)
        # Class 0 is taken for class 1 three times, class 1 for class 2 once.
        confusion[0, :2], confusion[1, 1:3] = (7, 3), (9, 1)
        robust = np.diagonal(confusion) / 10
        if matrix is None:
            matrix = np.eye(classes)
            matrix[0, 1] = matrix[1, 0] = 0.6
        return ClassReport(
            class_names=names or [str(i) for i in range(classes)],
            attack=attack,
            counts=counts,
            clean_accuracy=np.ones(classes),
            robust_accuracy=robust if attack else None,
            confusion=confusion,
            correlation=matrix,
            cas=1.2,
            pairs=list(pairs),
        )

    return make

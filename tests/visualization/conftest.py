"""A class report that is made up."""

import numpy as np
import pytest

from keras_wake.attribution import ClassReport


@pytest.fixture
def make_report():
    """Makes a report on `classes` classes with the given matrix."""

    def make(classes, names, matrix):
        counts = np.full(classes, 10)
        return ClassReport(
            class_names=names,
            attack="PGD()",
            counts=counts,
            clean_accuracy=np.ones(classes),
            robust_accuracy=np.ones(classes),
            confusion=np.diag(counts),
            correlation=matrix,
            cas=1.2,
            pairs=[],
        )

    return make

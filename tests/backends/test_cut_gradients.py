"""Gradients that do not exist, in several threads."""

import contextlib

import pytest

from keras_wake.backend import _common


def test_one_evaluation_that_ends_does_not_end_that_of_another_thread():
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(_common.cut_gradients_are_zero())
    second.enter_context(_common.cut_gradients_are_zero())
    first.close()
    _common.no_gradient([])
    second.close()
    with pytest.raises(ValueError, match="have no gradient"):
        _common.no_gradient([])

"""Old names, until every room uses the new ones."""

from keras_wake.data.arrays import *  # noqa: F403
from keras_wake.data.classifier import *  # noqa: F403
from keras_wake.data.classifier import input_shape as _input_shape  # noqa: F401

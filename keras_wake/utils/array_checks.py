"""Old names, until every room uses the new ones."""

from keras_wake.data.arrays import *  # noqa: F403
from keras_wake.utils.labels import *  # noqa: F403

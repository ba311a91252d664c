"""Old names, until every room uses the new ones."""

from keras_wake.data.faults import *  # noqa: F403
from keras_wake.data.faults import raise_for_values as raise_for_faults  # noqa: F401

"""Old names, until every room uses the new ones."""

from keras_wake.data.batches import *  # noqa: F403
from keras_wake.data.batches import iterate_batches as batches  # noqa: F401
from keras_wake.data.batches import iterate_checked as checked_batches  # noqa: F401

"""Old names, until every room uses the new ones."""

from keras_wake.data.arrays import ImageShape  # noqa: F401
from keras_wake.data.arrays import rank_is_unknown  # noqa: F401

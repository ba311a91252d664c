"""Names for what annotations cannot say more exactly.

Keras has no class for the tensors of all backends, and `fit` takes data of
many classes. So these are `Any` to the checker, and the name tells the reader.
"""

from typing import Any
from typing import TypeAlias

import numpy as np

# A tensor of the backend, or a variable; within `keras.ops` also an array.
Tensor: TypeAlias = Any
# A NumPy array of any dtype.
Array: TypeAlias = np.ndarray
# A pair of arrays (x, y), or anything that yields batches (images, labels).
Dataset: TypeAlias = Any
# Numbers, texts, lists and dictionaries, as JSON can hold them.
Json: TypeAlias = Any
# The `get_config()` of an object, as Keras saves it.
Config: TypeAlias = dict[str, Any]
# The values of an epoch or a batch that Keras gives to callbacks.
Logs: TypeAlias = dict[str, float]
# What the `get_state()` of a callback returns, for a backup.
State: TypeAlias = dict[str, Any]

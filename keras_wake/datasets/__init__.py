"""Image data as reproducible batches, with a validation split.

A call of `load` goes through `loading` (name and arguments), the file of the
data set such as `digits` (which returns a `source.Source`),
`splits` (which images are chosen) and `numpy_pipeline` (batches, shared among
processes by `keras_wake.data.sharding`). On TensorFlow, `tensorflow_pipeline`
makes the same batches a `tf.data.Dataset`.
"""

from keras_wake.datasets.loading import load
from keras_wake.datasets.loading import register
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import Source
from keras_wake.datasets.splits import Splits

__all__ = ["ImageArrays", "Source", "Splits", "load", "register"]

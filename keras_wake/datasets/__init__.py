"""Image data as reproducible batches, with a validation split."""

from keras_wake.datasets.loading import load
from keras_wake.datasets.splits import Splits

__all__ = ["Splits", "load"]

"""The version of keras-wake, read by the build and by `keras_wake`."""

__version__ = "0.1.0"

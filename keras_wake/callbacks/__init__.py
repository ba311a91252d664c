"""Callbacks: the teacher's average, attribution, and the collapse monitor."""

from keras_wake.callbacks.catastrophic_overfit_monitor import (
    CatastrophicOverfitMonitor,
)
from keras_wake.callbacks.cross_class_attribution import CrossClassAttribution
from keras_wake.callbacks.ema_teacher import EMATeacher

__all__ = ["CatastrophicOverfitMonitor", "CrossClassAttribution", "EMATeacher"]

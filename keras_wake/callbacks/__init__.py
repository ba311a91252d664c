"""Callbacks: teachers, averages, attribution, monitor and backup."""

from keras_wake.callbacks.backup_and_restore import BackupAndRestore
from keras_wake.callbacks.catastrophic_overfit_monitor import (
    CatastrophicOverfitMonitor,
)
from keras_wake.callbacks.cross_class_attribution import CrossClassAttribution
from keras_wake.callbacks.ema_teacher import EMATeacher
from keras_wake.callbacks.pretrained_teacher import PretrainedTeacher
from keras_wake.callbacks.stochastic_weight_averaging import (
    StochasticWeightAveraging,
)

__all__ = [
    "BackupAndRestore",
    "CatastrophicOverfitMonitor",
    "CrossClassAttribution",
    "EMATeacher",
    "PretrainedTeacher",
    "StochasticWeightAveraging",
]

"""Callbacks: teachers, averages, attribution, AutoAttack, backup."""

from keras_wake.callbacks.auto_attack_evaluation import AutoAttackEvaluation
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
    "AutoAttackEvaluation",
    "BackupAndRestore",
    "CatastrophicOverfitMonitor",
    "CrossClassAttribution",
    "EMATeacher",
    "PretrainedTeacher",
    "StochasticWeightAveraging",
]

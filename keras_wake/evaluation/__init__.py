"""Robust accuracy that can be believed: AutoAttack, sweeps, checks."""

from keras_wake.evaluation._autoattack import autoattack
from keras_wake.evaluation._epsilon_sweep import epsilon_sweep
from keras_wake.evaluation._epsilon_sweep import EpsilonSweep
from keras_wake.evaluation._robust_accuracy import robust_accuracy
from keras_wake.evaluation.checks import ReliabilityWarning
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport

__all__ = [
    "AttackResult",
    "EpsilonSweep",
    "ReliabilityWarning",
    "RobustnessReport",
    "autoattack",
    "epsilon_sweep",
    "robust_accuracy",
    "wilson_interval",
]

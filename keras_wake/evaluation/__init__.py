"""Robust accuracy that can be believed: AutoAttack, sweeps, checks.

A call of `autoattack` goes through these files in order: `robustness` (the
function, and which attacks run), `evaluate` (what happens when),
`compiled_classifier` (the samples, and the attacks on batches of them),
`state` (the progress on the disk), `reliability` (what makes the number
doubtful) and `report` (what is returned). `joining` makes one report of shares.
"""

from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.joining import join_reports
from keras_wake.evaluation.reliability import ReliabilityWarning
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.evaluation.robustness import autoattack
from keras_wake.evaluation.robustness import robust_accuracy
from keras_wake.evaluation.sweep import epsilon_sweep
from keras_wake.evaluation.sweep import EpsilonSweep

__all__ = [
    "AttackResult",
    "EpsilonSweep",
    "ReliabilityWarning",
    "RobustnessReport",
    "autoattack",
    "epsilon_sweep",
    "join_reports",
    "robust_accuracy",
    "wilson_interval",
]

"""Robust accuracy that can be believed: AutoAttack, sweeps, checks.

A call of `autoattack` goes through these files in order: `robustness` (the
function), `attack_lists` (which attacks run), `evaluate` (what happens when),
`samples` (the data), `compiled_classifier` (attacks and passes on batches),
`state` (the progress on the disk). `checks` looks at what was found, and
`report` holds it.
"""

from keras_wake.evaluation.checks import ReliabilityWarning
from keras_wake.evaluation.interval import wilson_interval
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
    "robust_accuracy",
    "wilson_interval",
]

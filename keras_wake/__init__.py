"""Adversarial training that does not overfit, in Keras 3.

`WakeModel` wraps a classifier; `attacks`, `objectives` and `schedules` are
its parts; `callbacks` switch on the averaged teacher, attribution and the
collapse monitor. `evaluation` is AutoAttack and what else measures
robustness. `theory` holds the synthetic model behind the method.
"""

import sys

from keras_wake._version import __version__

# `python -m keras_wake.doctor` has to run where Keras cannot be imported.
if sys.argv[:1] != ["-m"] or not any(
    argument.endswith("keras_wake.doctor") for argument in sys.orig_argv
):
    from keras_wake import attacks
    from keras_wake import attribution
    from keras_wake import callbacks
    from keras_wake import datasets
    from keras_wake import evaluation
    from keras_wake import losses
    from keras_wake import models
    from keras_wake import objectives
    from keras_wake import schedules
    from keras_wake import theory
    from keras_wake import visualization
    from keras_wake.callbacks import AutoAttackEvaluation
    from keras_wake.callbacks import BackupAndRestore
    from keras_wake.callbacks import CatastrophicOverfitMonitor
    from keras_wake.callbacks import CrossClassAttribution
    from keras_wake.callbacks import EMATeacher
    from keras_wake.callbacks import PretrainedTeacher
    from keras_wake.callbacks import StochasticWeightAveraging
    from keras_wake.wake_model import WakeModel

__all__ = [
    "AutoAttackEvaluation",
    "BackupAndRestore",
    "CatastrophicOverfitMonitor",
    "CrossClassAttribution",
    "EMATeacher",
    "PretrainedTeacher",
    "StochasticWeightAveraging",
    "WakeModel",
    "__version__",
    "attacks",
    "attribution",
    "callbacks",
    "datasets",
    "evaluation",
    "losses",
    "models",
    "objectives",
    "schedules",
    "theory",
    "visualization",
]

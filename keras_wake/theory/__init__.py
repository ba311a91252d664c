"""Why features that classes share are dropped, and what brings them back.

The synthetic model of the paper's appendix E three times over: its optimum
in closed form (`SyntheticModel`), from samples (`monte_carlo_weights`), and
by training a Keras network with `WakeModel` (`trained_weights`).
"""

from keras_wake.theory.features import logits_of
from keras_wake.theory.monte_carlo import monte_carlo_weights
from keras_wake.theory.monte_carlo import robust_loss
from keras_wake.theory.synthetic_model import expected_maximum
from keras_wake.theory.synthetic_model import SyntheticModel
from keras_wake.theory.training import AtLeast
from keras_wake.theory.training import MarginLoss
from keras_wake.theory.training import synthetic_classifier
from keras_wake.theory.training import SyntheticLogits
from keras_wake.theory.training import trained_weights

__all__ = [
    "AtLeast",
    "MarginLoss",
    "SyntheticLogits",
    "SyntheticModel",
    "expected_maximum",
    "logits_of",
    "monte_carlo_weights",
    "robust_loss",
    "synthetic_classifier",
    "trained_weights",
]

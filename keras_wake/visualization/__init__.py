"""Figures of a run: matrices, curves, classes, examples, robustness.

Every function returns a `matplotlib.figure.Figure` that belongs to no window
and to no global state, so that figures can be drawn without a display and in
the middle of `fit`. Matplotlib is imported at the first call.
"""

from keras_wake.visualization.adversarial_examples import (
    plot_adversarial_examples,
)
from keras_wake.visualization.class_report import plot_class_report
from keras_wake.visualization.class_report import plot_shared_pairs
from keras_wake.visualization.correlation_matrix import (
    plot_correlation_difference,
)
from keras_wake.visualization.correlation_matrix import plot_correlation_matrix
from keras_wake.visualization.correlation_matrix import plot_correlation_strip
from keras_wake.visualization.curves import plot_comparison
from keras_wake.visualization.curves import plot_history
from keras_wake.visualization.robustness import plot_epsilon_sweep
from keras_wake.visualization.robustness import plot_robustness_report
from keras_wake.visualization.synthetic import plot_synthetic

__all__ = [
    "plot_adversarial_examples",
    "plot_class_report",
    "plot_comparison",
    "plot_correlation_difference",
    "plot_correlation_matrix",
    "plot_correlation_strip",
    "plot_epsilon_sweep",
    "plot_history",
    "plot_robustness_report",
    "plot_shared_pairs",
    "plot_synthetic",
]

"""The synthetic model as a Keras network that `WakeModel` trains with FGSM.

This is the third way to the optimum, through the code that trains networks.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake.attacks import FGSM
from keras_wake.objectives import Objective
from keras_wake.theory import features
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor
from keras_wake.wake_model import WakeModel

# The weights stay above 0: at w2 = 0 the logits do not depend on the common
# features, so the attack would have no gradient for these.
SMALLEST_WEIGHT = 1e-6
# Above this margin, the gradient of cross-entropy that FGSM follows is only
# rounding error in float32.
LARGEST_MARGIN = 12.0
# This share of the samples may lie above it: they hardly change the mean.
MOST_LARGE_MARGINS = 1e-3


@keras.saving.register_keras_serializable(package="keras_wake")
class AtLeast(keras.constraints.Constraint):
    """Constrains weights to be at least `minimum`.

    Args:
        minimum: Smallest value that a weight may take. Defaults to `1e-6`.

    Example:

    >>> float(AtLeast(1e-6)(np.array(-1.0, "float32")))
    9.99...e-07
    """

    def __init__(self, minimum: float = SMALLEST_WEIGHT) -> None:
        self.minimum = validate.real(minimum=minimum)

    def __call__(self, w: Tensor) -> Tensor:
        """The weights, clipped from below."""
        return ops.maximum(w, self.minimum)

    def get_config(self) -> Config:
        return {"minimum": self.minimum}


@keras.saving.register_keras_serializable(package="keras_wake")
class SyntheticLogits(keras.layers.Layer):
    """Logits w1 x_Ei + w2 Σ_{j≠i} x_Cj of equation (14), i = 1, 2, 3.

    The kernel is (w1, w2). It starts at ones, is kept from becoming
    negative, and is regularised by λ/2 ‖w‖².

    Args:
        weight_decay: λ. Defaults to `1.0`.
        **kwargs: As for every Keras layer.

    Input shape: (batch, 6). Output shape: (batch, 3).

    Example:

    >>> layer = SyntheticLogits()
    >>> keras.ops.convert_to_numpy(layer(np.array([[1.0, 0, 0, 0, 2, 3]])))
    array([[6., 3., 2.]], dtype=float32)
    """

    def __init__(self, weight_decay: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight_decay = validate.positive(weight_decay=weight_decay)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the kernel."""
        if input_shape[-1] != features.NUM_FEATURES:
            raise ValueError(
                f"Samples must have {features.NUM_FEATURES} features. "
                f"Received: shape {tuple(input_shape)}."
            )
        self.kernel = self.add_weight(
            shape=(2,),
            initializer="ones",
            # Keras's L2 has no factor of a half.
            regularizer=keras.regularizers.L2(self.weight_decay / 2),
            constraint=AtLeast(),
            name="kernel",
        )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """The logits (batch, 3)."""
        exclusive, common = ops.split(inputs, 2, axis=1)
        of_others = ops.sum(common, axis=1, keepdims=True) - common
        return self.kernel[0] * exclusive + self.kernel[1] * of_others

    def get_config(self) -> Config:
        return {**super().get_config(), "weight_decay": self.weight_decay}


@keras.saving.register_keras_serializable(package="keras_wake")
class MarginLoss(Objective):
    """The margin by which an adversarial sample is taken for another class.

    Equation (15), with label smoothing (36), without weight decay:

        (1 − β) (max_{j≠y} f(x + δ)_j − f(x + δ)_y)
        − β / (K − 1) Σ_{j≠y} f(x + δ)_j

    It has no lower bound of its own: the network needs a regulariser.

    Args:
        label_smoothing: β, at least 0 and less than 1. Defaults to `0.0`.

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Example:

    >>> objective = MarginLoss()
    >>> logits = np.array([[1.0, 4.0, 2.0]], "float32")
    >>> loss = objective.loss(np.eye(3)[[1]], {"adversarial": logits})
    >>> keras.ops.convert_to_numpy(loss)
    array([-2.], dtype=float32)
    """

    name = "margin"
    inputs = ("adversarial",)

    def __init__(self, label_smoothing: float = 0.0) -> None:
        beta = validate.fraction(label_smoothing=label_smoothing)
        self.label_smoothing = beta

    def loss(self, labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
        """The margin of each sample, float32 (batch,); labels one-hot."""
        beta = self.label_smoothing
        scores = ops.cast(logits["adversarial"], "float32")
        is_own = ops.cast(labels, "float32") > 0.5
        own = ops.sum(ops.where(is_own, scores, 0.0), axis=-1)
        rival = ops.max(ops.where(is_own, -np.inf, scores), axis=-1)
        mean = (ops.sum(scores, axis=-1) - own) / (scores.shape[-1] - 1)
        return (1 - beta) * (rival - own) - beta * mean

    def get_config(self) -> Config:
        return {"label_smoothing": self.label_smoothing}


def synthetic_classifier(weight_decay: float = 1.0) -> keras.Model:
    """The classifier of the synthetic model as a Keras network.

    Args:
        weight_decay: λ of the regulariser λ/2 ‖w‖². Defaults to `1.0`.

    Returns:
        Built `keras.Model`: samples (batch, 6) to logits (batch, 3).

    Example:

    >>> synthetic_classifier().count_params()
    2
    """
    return keras.Sequential(
        [keras.Input((features.NUM_FEATURES,)), SyntheticLogits(weight_decay)],
        name="synthetic_classifier",
    )


def trained_weights(
    x: Array,
    y: Array,
    epsilon: float,
    weight_decay: float = 1.0,
    label_smoothing: float = 0.0,
    steps: int = 10,
) -> tuple[float, float]:
    """The weights that `WakeModel` arrives at with FGSM and `MarginLoss`.

    Gradient descent with learning rate 0.8 / λ, all samples in each step, in
    float32. For a linear classifier, FGSM finds the whole inner maximum.

    Args:
        x: Samples, as in `robust_loss`.
        y: Their classes.
        epsilon: ε.
        weight_decay: λ. Defaults to `1.0`.
        label_smoothing: β. Defaults to `0.0`.
        steps: Steps of gradient descent; each leaves a fifth of the distance
            to the optimum. Defaults to `10`.

    Returns:
        Pair of floats (w1, w2), at least 1e-6: at 0 the attack would have no
        gradient.

    Raises:
        ValueError: If shapes or classes are wrong, or if cross-entropy has no
            gradient left in float32.

    Example:

    ```python
    x, y = kw.theory.SyntheticModel().sample(20_000)
    w1, w2 = kw.theory.trained_weights(x, y, epsilon=0.1)
    ```
    """
    x, y = features.check_samples(x, y)
    epsilon = validate.in_range(0, np.inf, epsilon=epsilon)
    steps = validate.integer(1, steps=steps)
    classifier = synthetic_classifier(weight_decay)
    # Wide enough that no sample is ever clipped.
    bound = 2 * (float(np.abs(x).max()) + epsilon)
    model = WakeModel(
        classifier,
        attack=FGSM(epsilon=epsilon, bounds=(-bound, bound)),
        objective=MarginLoss(label_smoothing),
    )
    model.compile(keras.optimizers.SGD(0.8 / weight_decay))
    batch = x.astype("float32"), y.astype("int32")
    model.fit(*batch, batch_size=len(x), epochs=steps, shuffle=False, verbose=0)
    w1, w2 = map(float, ops.convert_to_numpy(classifier.trainable_weights[0]))
    logits = features.logits_of(x, (w1, w2))
    is_own = np.eye(features.NUM_CLASSES, dtype=bool)[y]
    margins = logits[is_own] - np.where(is_own, -np.inf, logits).max(axis=1)
    share = float((margins > LARGEST_MARGIN).mean())
    if share > MOST_LARGE_MARGINS:
        raise ValueError(
            f"{share:.1%} of the samples have a logit that leads by more than "
            f"{LARGEST_MARGIN:g}, where cross-entropy in float32 has no "
            "gradient for FGSM. A larger weight decay makes the weights "
            "smaller and leaves ε0 and ε1 as they are. "
            f"Received: weight_decay={weight_decay!r}, which led to the "
            f"weights {w1, w2}."
        )
    return w1, w2

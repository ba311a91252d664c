"""Losses, one value per sample, computed in float32 from logits."""

from keras_wake.losses.classification import cross_entropy
from keras_wake.losses.classification import kl_divergence
from keras_wake.losses.classification import smoothed
from keras_wake.losses.distillation import distillation_loss
from keras_wake.losses.margin import dlr_loss
from keras_wake.losses.margin import margin_loss
from keras_wake.losses.margin import targeted_dlr_loss

__all__ = [
    "cross_entropy",
    "distillation_loss",
    "dlr_loss",
    "kl_divergence",
    "margin_loss",
    "smoothed",
    "targeted_dlr_loss",
]

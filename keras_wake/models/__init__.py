"""Image classifiers of adversarial training: [0, 1] images to logits."""

from keras_wake.models.batch_norm import reestimate_batch_norm
from keras_wake.models.preact_resnet import PreActResNet18
from keras_wake.models.small_cnn import SmallCNN

__all__ = ["PreActResNet18", "SmallCNN", "reestimate_batch_norm"]

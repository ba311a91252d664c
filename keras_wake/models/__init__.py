"""Image classifiers of adversarial training: [0, 1] images to logits."""

from keras_wake.models.batch_norm import reestimate_batch_norm
from keras_wake.models.deit import DeiTTiny
from keras_wake.models.preact_resnet import PreActResNet18
from keras_wake.models.pytorch_weights import load_pytorch_weights
from keras_wake.models.small_cnn import SmallCNN
from keras_wake.models.wide_resnet import WideResNet
from keras_wake.models.wide_resnet import WideResNet28_10
from keras_wake.models.wide_resnet import WideResNet34_10

__all__ = [
    "DeiTTiny",
    "PreActResNet18",
    "SmallCNN",
    "WideResNet",
    "WideResNet28_10",
    "WideResNet34_10",
    "load_pytorch_weights",
    "reestimate_batch_norm",
]

"""The networks that `autoattack.py` attacks, in Keras and in PyTorch."""

import pathlib

import numpy as np

# For each data set: what is loaded, the network, and how it is trained.
LOADED = {
    "digits": {},
    "cifar10": {"limit": 3000, "test_limit": 1000},
}
NETWORK = {
    "digits": {
        "input_shape": (8, 8, 1),
        "widths": (32, 64, 64),
        "strides": (1, 2, 2),
    },
    "cifar10": {
        "input_shape": (32, 32, 3),
        "widths": (32, 64, 64, 128, 128),
        "strides": (2, 2, 1, 2, 1),
    },
}
EPOCHS = {"digits": 20, "cifar10": 10}
EPSILON = {
    "digits": {"linf": 0.1, "l2": 0.8},
    "cifar10": {"linf": 8 / 255, "l2": 128 / 255},
}


def keras_network(data: str):
    """`SmallCNN` for the images of a data set."""
    import keras_wake as kw

    return kw.models.SmallCNN(10, **NETWORK[data])


def train(path: pathlib.Path, data: str, norm: str, data_dir: str) -> None:
    """Trains a network adversarially; writes weights, images and logits."""
    import keras

    import keras_wake as kw

    keras.utils.set_random_seed(0)
    splits = kw.datasets.load(
        data, data_dir=data_dir, batch_size=50, **LOADED[data]
    )
    network = keras_network(data)
    attack = kw.attacks.PGD(norm, epsilon=EPSILON[data][norm], steps=5)
    model = kw.WakeModel(network, attack)
    model.compile(keras.optimizers.Adam(0.003))
    model.fit(splits.train, epochs=EPOCHS[data], verbose=2)
    x, y = map(np.concatenate, zip(*splits.test, strict=True))
    # The digits have 1,797 images: missing test images are training images.
    x_train, y_train = map(np.concatenate, zip(*splits.train, strict=True))
    x, y = np.concatenate([x, x_train]), np.concatenate([y, y_train])
    weights = {f"weight_{n}": w for n, w in enumerate(network.get_weights())}
    logits = network.predict(x, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"new-{path.name}")
    np.savez(new, x=x, y=y, logits=logits, **weights)
    new.replace(path)


def torch_network(data: str, weights: list):
    """The same in PyTorch, with the weights of the Keras network."""
    import torch
    from torch import nn

    *_, channels = NETWORK[data]["input_shape"]
    rgb = channels == 3
    mean = (0.4914, 0.4822, 0.4465) if rgb else (0.5,)
    deviation = (0.2471, 0.2435, 0.2616) if rgb else (0.5,)
    layers: list[nn.Module] = []
    for width, stride in zip(
        NETWORK[data]["widths"], NETWORK[data]["strides"], strict=True
    ):
        convolution = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            shape = (1, -1, 1, 1)
            self.register_buffer("mean", torch.tensor(mean).view(shape))
            self.register_buffer("std", torch.tensor(deviation).view(shape))
            self.layers = nn.Sequential(*layers)
            self.linear = nn.Linear(channels, 10)

        def forward(self, x):
            features = self.layers((x - self.mean) / self.std)
            return self.linear(features.mean((2, 3)))

    network = Network().eval()
    left = [torch.tensor(weight) for weight in weights]
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(left.pop(0).permute(3, 2, 0, 1))
            elif isinstance(layer, nn.BatchNorm2d):
                for tensor in (
                    layer.weight,
                    layer.bias,
                    layer.running_mean,
                    layer.running_var,
                ):
                    tensor.copy_(left.pop(0))
        network.linear.weight.copy_(left.pop(0).T)
        network.linear.bias.copy_(left.pop(0))
    return network

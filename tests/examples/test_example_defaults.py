"""The defaults of the scripts are the published settings.

PreActResNet-18, 200 epochs of batches of 128, SGD with momentum 0.9, weight
decay 5e-4, learning rate 0.1 divided by 10 at epochs 100 and 150; KDSWA of
Chen et al. (2021); DeiT-Ti with patches of 4 pixels.
"""

import types

import keras
import pytest

import keras_wake as kw

PUBLISHED = {
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "label_smoothing": 0.0,
    "precision": "float32",
    "attack_dtype": None,
    "augment": None,  # The data set's own: crop and flip.
    "cutmix": None,
    "norm": "linf",
    "epsilon": 8 / 255,
    "step_size": 2 / 255,
    "steps": 10,
    "eval_steps": 20,
    "start_epoch": 100,
    "end_epoch": 110,
    "peak": 1.0,
    "final": 1.0,
    "temperature": 2.0,
    "decay": 0.999,
    "batch_norm": "average",
    "ema_warmup": False,
    "swa_start": 55,
    "robust_weight": 0.6,
    "standard_weight": 0.1,
    "limit": None,
    "early_stop": None,
}
SCRIPTS = {
    "cifar10": {"model": "preact_resnet18", "validation": 1000},
    "cifar100": {"model": "preact_resnet18", "validation": 1000},
    "tiny_imagenet": {"model": "preact_resnet18", "validation": 2000},
    "cifar10_deit": {"model": "deit_tiny", "validation": 1000},
}


def parse(examples, script, *argv):
    defaults = getattr(examples, script).DEFAULTS
    return examples.flags.parse_args("", defaults, argv)[1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_the_published_settings(examples, script):
    args = vars(parse(examples, script))
    expected = {**PUBLISHED, **SCRIPTS[script], "width": 64, "method": "wake"}
    assert {name: args[name] for name in expected} == pytest.approx(expected)
    dataset = "cifar10" if script == "cifar10_deit" else script
    assert args["dataset"] == dataset
    args = parse(examples, script, "--norm=l2", "--method=at")
    assert args.epsilon == 128 / 255
    assert args.step_size == args.epsilon / 8
    parts = examples.parts.Parts(args)
    for attack in (parts.attack, parts.eval_attack):
        assert attack.step_size == pytest.approx(16 / 255)


def test_optimizer_is_built_with_momentum_and_decay(examples):
    args = parse(examples, "cifar10", "--method=at", "--width=1")
    splits = types.SimpleNamespace(
        num_classes=10, input_shape=(32, 32, 3), train=range(3)
    )
    parts = examples.parts.Parts(args)
    optimizer = examples.training.build(args, parts, splits).optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, False)
    # Decay in the gradient, as PyTorch has it, adds up to 1 / (1 - 0.9).
    assert optimizer.weight_decay == pytest.approx(5e-3)
    rate = optimizer._learning_rate
    found = [float(rate(3 * (epoch - 1))) for epoch in (1, 100, 101, 150, 151)]
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_transformer_is_deit_tiny_with_patches_of_four(examples):
    pytest.importorskip("keras_hub", reason="DeiT needs KerasHub")
    args = parse(examples, "cifar10_deit")
    network = examples.networks.network(args.model, 10, (32, 32, 3))
    (backbone,) = (
        layer for layer in network.layers if "backbone" in layer.name.lower()
    )
    published = {"num_layers": 12, "num_heads": 3, "hidden_dim": 192}
    assert published.items() <= backbone.get_config().items()
    assert tuple(backbone.patch_size) == (4, 4)


def test_usual_ramp_is_that_of_the_library(examples):
    for epochs in (2, 3, 5, 10, 24, 60, 200):
        args = parse(examples, "cifar10", f"--epochs={epochs}")
        usual = kw.schedules.DistillationRamp.for_epochs(epochs)
        ramp = (usual.start_epoch, usual.end_epoch)
        assert (args.start_epoch, args.end_epoch) == ramp


def test_other_scripts(examples):
    args = examples.catastrophic_overfitting.parse_args(["--dataset=cifar10"])
    assert (args.epsilon, args.warm_up) == (16 / 255, 0)
    assert (args.batch_size, args.epochs) == (128, 30)
    args, _ = examples.epsilon_sweep.parse_args([])
    assert args.epsilons == [8, 12, 16] and args.early == 10
    assert args.example == "cifar10" and args.method == "at"
    network = f"--network={__file__}"
    _, args = examples.analyse.parse_args([network])
    assert args.epsilon == 8 / 255 and args.steps == 20
    assert (args.model, args.width) == ("preact_resnet18", 64)
    assert str(args.out) == "analysis"
    _, args = examples.evaluate.parse_args([network, "--dataset=digits"])
    assert args.epsilon == 0.15 and args.attack == "standard"
    assert str(args.out) == "evaluation"

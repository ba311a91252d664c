"""Shows a network that collapses under single-step training.

    python examples/catastrophic_overfitting.py
    python examples/catastrophic_overfitting.py --dataset cifar10

Trains with PGD for a few epochs, then with single steps (FGSM) at a radius at
which they fail: catastrophic overfitting (the paper's D.6).
`CatastrophicOverfitMonitor` reports it. Writes the curve of single-step and
multi-step accuracy, and the matrices before and after the collapse. With
`--warm-up 0`, the default for CIFAR-10, all epochs are Fast-AT (FGSM-RS).
"""

import argparse
import operator
import pathlib
from typing import Any

from runner.parsing import at_least
from runner.parsing import Parser
from runner.parsing import positive

import keras_wake as kw

# Radius, batch size and epochs of both phases. Two CPU cores are enough for the
# digits; CIFAR-10 needs a GPU.
DIGITS = {"epsilon": 0.3, "batch_size": 64, "warm_up": 12, "epochs": 25}
CIFAR = {"epsilon": 16 / 255, "batch_size": 128, "warm_up": 0, "epochs": 30}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, with the defaults of the data set."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset", choices=("digits", "cifar10"), default="digits")
    add("--data-dir", type=pathlib.Path)
    add("--limit", type=at_least(1))
    add("--epsilon", type=positive)
    add("--batch-size", type=at_least(1))
    add("--warm-up", type=at_least(0), help="epochs of PGD")
    add("--epochs", type=at_least(1), help="epochs of single steps")
    add("--learning-rate", type=positive, default=0.1, help="of single steps")
    add("--seed", type=at_least(0), default=0)
    add("--run-dir", type=pathlib.Path, default="runs/collapse")
    args = parser.parse_args(argv)
    usual = DIGITS if args.dataset == "digits" else CIFAR
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def network(splits):
    """A network; for the digits a small one, which collapses in seconds."""
    import keras

    classes, shape = splits.num_classes, splits.input_shape
    if shape[0] >= 16:
        return kw.models.PreActResNet18(classes, shape)
    model = keras.Sequential([keras.Input(shape)])
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        model.add(keras.layers.Conv2D(filters, 3, strides, "same"))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(classes))
    return model


def fit(classifier, attack, splits, epochs, rate, args) -> list[dict[str, Any]]:
    """Trains with an attack; returns a check and a matrix of each epoch."""
    import keras

    if not epochs:
        return []
    strong = kw.attacks.PGD("linf", args.epsilon, steps=10)
    model = kw.WakeModel(classifier, attack, eval_attack=strong, seed=args.seed)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    images = splits.arrays("train", limit=min(256, splits.train_size))
    monitor = kw.CatastrophicOverfitMonitor(data=images)
    matrices = kw.CrossClassAttribution()
    logs = model.fit(
        splits.train,
        shuffle=False,
        epochs=epochs,
        validation_data=splits.validation,
        callbacks=[monitor, matrices],
        verbose=2,
    ).history
    key = "val_robust_accuracy"
    found = zip(monitor.history, matrices.history, logs[key], strict=True)
    return [{**check, **entry, key: value} for check, entry, value in found]


def main(argv: list[str] | None = None) -> None:
    """Trains, watches the collapse and draws it."""
    args = parse_args(argv)
    import keras

    keras.utils.set_random_seed(args.seed)
    splits = kw.datasets.load(
        args.dataset,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        limit=args.limit,
        validation_split=0.2,
        seed=args.seed,
    )
    args.run_dir.mkdir(parents=True, exist_ok=True)
    classifier = network(splits)
    multi = kw.attacks.PGD("linf", args.epsilon, steps=7)
    single = kw.attacks.FGSM.fast_at(args.epsilon)
    if args.warm_up:
        single = kw.attacks.FGSM("linf", args.epsilon)
    checks = []
    for phase, attack, epochs, rate in (
        ("PGD", multi, args.warm_up, 0.05),
        ("single steps", single, args.epochs, args.learning_rate),
    ):
        done = len(checks)
        checks += [
            {**check, "epoch": done + check["epoch"], "phase": phase}
            for check in fit(classifier, attack, splits, epochs, rate, args)
        ]
    report(args, splits, checks)


def before_and_after(checks):
    """The best check before the first collapse, and the worst one in it.

    None if there was no collapse, or nothing before it.
    """
    collapsed = [check for check in checks if check["collapsed"]]
    if not collapsed or checks[0] is collapsed[0]:
        return None
    multi = operator.itemgetter("multi_step_accuracy")
    good = checks[: checks.index(collapsed[0])]
    return max(good, key=multi), min(collapsed, key=multi)


def report(args, splits, checks) -> None:
    """Prints and draws both accuracies, and draws the matrices."""
    print("\nepoch  single step  multi step   CAS  trained with")
    for check in checks:
        print(
            f"{check['epoch']:5} {check['single_step_accuracy']:12.1%} "
            f"{check['multi_step_accuracy']:11.1%} {check['cas']:5.1f}  "
            f"{check['phase']}{', collapsed' * check['collapsed']}"
        )
    draw_curves(checks, args.run_dir / "collapse_curves.png")
    found = before_and_after(checks)
    if found is None:
        print("No collapse after a good epoch: try a larger --epsilon.")
        return
    for name, check in zip(("Before", "After"), found, strict=True):
        print(
            f"{name} the collapse, epoch {check['epoch']}: "
            f"{check['single_step_accuracy']:.1%} under a single step, "
            f"{check['multi_step_accuracy']:.1%} under several."
        )
    before, after = found
    kw.visualization.plot_correlation_strip(
        {check["epoch"]: check["correlation"] for check in found},
        {check["epoch"]: check["val_robust_accuracy"] for check in found},
        class_names=splits.class_names,
        title="Before and after the collapse",
        path=args.run_dir / "collapse.png",
    )
    kw.visualization.plot_correlation_difference(
        before["correlation"],
        after["correlation"],
        class_names=splits.class_names,
        title=f"epoch {before['epoch']} − epoch {after['epoch']}",
        path=args.run_dir / "collapse_difference.png",
    )
    print(f"Figures are in {args.run_dir}.")


def draw_curves(checks, path) -> None:
    """Accuracy under one and under several steps over the epochs."""
    # Without pyplot, whose state would outlive this figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    panel = figure.add_subplot()
    epochs = [check["epoch"] for check in checks]
    for name in ("single_step", "multi_step"):
        values = [check[f"{name}_accuracy"] for check in checks]
        panel.plot(epochs, values, ".-", label=name.replace("_", " "))
    bad = [check["epoch"] for check in checks if check["collapsed"]]
    if bad:
        panel.axvline(bad[0], color="0.35", linestyle=":", label="collapse")
    panel.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    panel.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()

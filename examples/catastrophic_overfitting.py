"""A network that collapses under single-step training, and what is lost.

    python examples/catastrophic_overfitting.py
    python examples/catastrophic_overfitting.py --dataset cifar10 --warm-up 0

Trains with PGD for a few epochs, then goes on with single steps (FGSM) at a
radius that they cannot stand: catastrophic overfitting (the paper's D.6).
`CatastrophicOverfitMonitor` reports it. Writes the curve of single-step and
multi-step accuracy, and the matrices of the last check before the collapse
and of the end. With `--warm-up 0` all epochs are Fast-AT (FGSM-RS), as on
CIFAR-10 with a GPU.
"""

import argparse
import pathlib

from runner import flags

import keras_wake as kw

# Radius, batch size, epochs of either phase: enough on two CPU cores for the
# digits; CIFAR-10 wants a GPU.
DIGITS = {"epsilon": 0.3, "batch_size": 64, "warm_up": 8, "epochs": 15}
CIFAR = {"epsilon": 16 / 255, "batch_size": 128, "warm_up": 0, "epochs": 30}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, with the defaults of the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", choices=("digits", "cifar10"), default="digits")
    add("--data-dir", type=pathlib.Path)
    add("--limit", type=flags.at_least(1))
    add("--epsilon", type=flags.positive)
    add("--batch-size", type=flags.at_least(1))
    add("--warm-up", type=flags.at_least(0), help="epochs of PGD")
    add("--epochs", type=flags.at_least(1), help="epochs of single steps")
    add("--seed", type=flags.at_least(0), default=0)
    add("--run-dir", type=pathlib.Path, default="runs/collapse")
    args = parser.parse_args(argv)
    usual = DIGITS if args.dataset == "digits" else CIFAR
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def network(splits):
    """For digits a small one, which collapses within seconds."""
    import keras

    classes, shape = splits.num_classes, splits.input_shape
    if shape[0] >= 16:
        return kw.models.PreActResNet18(classes, shape)
    layers = []
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        layers += [
            keras.layers.Conv2D(filters, 3, strides, "same"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    return keras.Sequential(
        [
            keras.Input(shape),
            *layers,
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
        ]
    )


def fit(classifier, attack, splits, epochs, rate, args, callbacks=()):
    """Trains with an attack; returns the compiled `WakeModel`."""
    import keras

    evaluation = kw.attacks.PGD("linf", args.epsilon, steps=10)
    model = kw.WakeModel(
        classifier, attack, eval_attack=evaluation, seed=args.seed
    )
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    if epochs:
        model.fit(
            splits.train,
            shuffle=False,
            epochs=epochs,
            validation_data=splits.validation,
            callbacks=list(callbacks),
            verbose=2,
        )
    return model


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
    fit(classifier, multi, splits, args.warm_up, 0.05, args)
    single = (
        kw.attacks.FGSM("linf", args.epsilon)
        if args.warm_up
        else kw.attacks.FGSM.fast_at(args.epsilon)
    )
    monitor = kw.CatastrophicOverfitMonitor(data=splits.arrays("train"))
    matrices = kw.CrossClassAttribution()
    history = keras.callbacks.History()
    fit(
        classifier,
        single,
        splits,
        args.epochs,
        0.1,
        args,
        [monitor, matrices, history],
    )
    report(args, splits, monitor, matrices, history.history)


def report(args, splits, monitor, matrices, logs) -> None:
    """Prints both accuracies and draws the matrices."""
    print("\nepoch  single step  multi step   CAS")
    for check, entry in zip(monitor.history, matrices.history, strict=True):
        print(
            f"{check['epoch']:5} {check['single_step_accuracy']:12.1%} "
            f"{check['multi_step_accuracy']:11.1%} {entry['cas']:5.1f}"
            f"{'   collapsed' * check['collapsed']}"
        )
    good = [e["epoch"] for e in monitor.history if not e["collapsed"]]
    if not monitor.collapsed or not good:
        print("No collapse after a good epoch: try a larger --epsilon.")
        return
    # The good epoch with the best accuracy under several steps.
    before = max(good, key=lambda e: logs["val_robust_accuracy"][e - 1])
    found = {entry["epoch"]: entry["correlation"] for entry in matrices.history}
    last = matrices.history[-1]["epoch"]
    kw.visualization.plot_correlation_strip(
        {before: found[before], last: found[last]},
        {e: logs["val_robust_accuracy"][e - 1] for e in (before, last)},
        class_names=splits.class_names,
        title="Before and after the collapse",
        path=args.run_dir / "collapse.png",
    )
    kw.visualization.plot_correlation_difference(
        found[before],
        found[last],
        class_names=splits.class_names,
        title=f"epoch {before} − epoch {last}",
        path=args.run_dir / "collapse_difference.png",
    )
    print(f"Figures are in {args.run_dir}.")


if __name__ == "__main__":
    main()

"""What all example scripts share: flags, training, the report of a run.

A script names its defaults and calls `main`. A run folder then holds
`record.json` (settings, commit, every epoch, final table), `history.csv`,
checkpoints, figures and `robust.keras`. It is written as the run goes on,
so a run that was killed continues with `--resume`.
"""

import argparse
import csv
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import traceback
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves oneDNN off on CPUs without AVX-512, where it still makes
# an adversarial training step nearly twice as fast.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

METHODS = ("wake", "at", "standard")


def parse_args(description: str, defaults: dict[str, Any], argv: Any = None):
    """The flags of all examples, with the defaults of one."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--method", choices=METHODS, default="wake", help="wake: adversarial "
        "training distilled from its own average; at: adversarial training; "
        "standard: clean images")  # fmt: skip
    add("--run-dir", type=pathlib.Path, help="folder that the run writes")
    add("--resume", action="store_true", help="continue the run in --run-dir")
    add("--seed", type=int, default=0, help="of weights, data and attacks")
    add("--data-dir", type=pathlib.Path, help="folder with train/<class> and "
        "test/<class>, in place of the download")  # fmt: skip
    add("--limit", type=int, help="number of training images to use")
    add("--test-limit", type=int, help="number of test images to use")
    add("--validation", type=float, help="training images set aside to choose "
        "the best epoch: a fraction, or a number of images")  # fmt: skip
    add("--augment", choices=("crop_flip", "flip", "none"), help="of training "
        "images; default: the data set's own")  # fmt: skip
    add("--model", choices=("small", "preact_resnet18"), help="network")
    add("--width", type=int, default=64, help="of the ResNet's first stage")
    add("--epochs", type=int, help="number of epochs")
    add("--batch-size", type=int, help="images in a step")
    add("--learning-rate", type=float, help="divided by 10 at 1/2 and 3/4")
    add("--weight-decay", type=float, default=5e-4, help="L2, as PyTorch's SGD "
        "counts it")  # fmt: skip
    add("--norm", choices=("linf", "l2"), default="linf", help="threat model")
    add("--epsilon", type=float, help="radius, in pixel units of [0, 1]; "
        "default: the data set's usual one for the norm")  # fmt: skip
    add("--step-size", type=float, help="of the training attack; default: "
        "epsilon / 4, or / 8 for l2")  # fmt: skip
    add("--steps", type=int, default=10, help="of the training attack")
    add("--eval-steps", type=int, default=20, help="of the evaluating attack")
    add("--eval-every", type=int, default=1, help="epochs between validations")
    add("--start-epoch", type=int, help="t_s; default: half of the epochs")
    add("--end-epoch", type=int, help="t_e; default: 55 %% of the epochs")
    add("--peak", type=float, default=1.0, help="what the ramp rises to")
    add("--final", type=float, default=1.0, help="KD weight from t_e on")
    add("--temperature", type=float, default=2.0, help="of the distillation")
    add("--decay", type=float, default=0.999, help="of the teacher's average")
    add("--ema-warmup", action=argparse.BooleanOptionalAction, default=False,
        help="ramp the decay up over the first updates")  # fmt: skip
    add("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    epsilons = vars(args).pop("epsilons")
    if args.epsilon is None:
        args.epsilon = epsilons[args.norm]
    if args.step_size is None:
        args.step_size = args.epsilon / (4 if args.norm == "linf" else 8)
    if args.validation <= 0:
        parser.error("--validation must be above 0: it chooses the best epoch.")
    if args.epochs < 2:
        parser.error("--epochs must be at least 2.")
    half, later = args.epochs // 2, round(0.55 * args.epochs)
    if args.start_epoch is None:
        args.start_epoch = half
    if args.end_epoch is None:
        args.end_epoch = max(args.start_epoch + 1, later)
    if args.run_dir is None:
        args.run_dir = pathlib.Path("runs") / (
            f"{args.dataset}-{args.method}-seed{args.seed}"
        )
    return parser, args


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What makes a run what it is; a resumed run must agree in all of it."""
    unimportant = {"run_dir", "resume", "threads", "data_dir"}
    return {k: v for k, v in sorted(vars(args).items()) if k not in unimportant}


class Record:
    """`record.json` and `history.csv` of a run, rewritten whole each time."""

    def __init__(self, run_dir: pathlib.Path, settings: dict[str, Any]):
        self.path = run_dir / "record.json"
        self.csv_path = run_dir / "history.csv"
        self.content: dict[str, Any] = {
            "settings": settings,
            "started": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
            "commit": _commit(),
            "device": _device(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("keras-wake", "keras", "tensorflow", "numpy")
            },
            "seconds": 0.0,
            "epochs": [],
            "table": None,
        }

    def load(self) -> None:
        """Takes over what an earlier, interrupted run has written."""
        content = json.loads(self.path.read_text())
        if content["settings"] != self.content["settings"]:
            differing = {
                key: (content["settings"].get(key), value)
                for key, value in self.content["settings"].items()
                if content["settings"].get(key) != value
            }
            raise ValueError(
                "--resume needs the settings of the run it continues. "
                f"Differing, as (there, here): {differing}."
            )
        self.content = content

    def write(self) -> None:
        """Writes aside, then renames: a killed run leaves no half file."""
        write_aside(self.path, json.dumps(self.content, indent=1) + "\n")
        epochs = self.content["epochs"]
        columns = {key: None for epoch in epochs for key in epoch}
        if epochs:
            with open(f"{self.csv_path}.tmp", "w", newline="") as file:
                writer = csv.DictWriter(file, list(columns))
                writer.writeheader()
                writer.writerows(epochs)
            os.replace(f"{self.csv_path}.tmp", self.csv_path)


def write_aside(path: pathlib.Path, text: str) -> None:
    """Writes a file under another name and moves it into place."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(
            command,
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _device() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in gpus
    ]
    cpu = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return ", ".join([*names, cpu])


def build(args: argparse.Namespace, splits: Any) -> Any:
    """The compiled `WakeModel` of a run."""
    import keras

    import keras_wake as kw

    keras.utils.set_random_seed(args.seed)
    shape, classes = splits.input_shape, splits.num_classes
    if args.model == "preact_resnet18":
        classifier = kw.models.PreActResNet18(classes, shape, width=args.width)
    elif shape[0] < 16:
        classifier = kw.models.SmallCNN(
            classes, shape, widths=(32, 64, 128), strides=(1, 2, 1)
        )
    else:
        classifier = kw.models.SmallCNN(classes, shape)
    attack = kw.attacks.PGD(
        args.norm, args.epsilon, step_size=args.step_size, steps=args.steps
    )
    schedule = None
    if args.method == "wake":
        schedule = kw.schedules.DistillationRamp(
            args.start_epoch,
            args.end_epoch,
            peak=args.peak,
            final=args.final,
        )
    model = kw.WakeModel(
        classifier,
        attack=attack,
        objective="standard" if args.method == "standard" else "at",
        eval_attack=kw.attacks.PGD.for_evaluation(attack, args.eval_steps),
        schedule=schedule,
        temperature=args.temperature,
        seed=args.seed,
    )
    steps = len(splits.train)
    rate = args.learning_rate
    momentum = 0.9
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.PiecewiseConstantDecay(
                [steps * args.epochs // 2, steps * args.epochs * 3 // 4],
                [rate, rate / 10, rate / 100],
            ),
            momentum=momentum,
            # Keras takes the decay off the weights directly; PyTorch adds it
            # to the gradient, where momentum multiplies it by 1 / (1 − m).
            weight_decay=args.weight_decay / (1 - momentum),
        )
    )
    return model


def train(args: argparse.Namespace, model: Any, splits: Any, record: Record):
    """Runs `fit` with everything that is watched, kept and resumed."""
    import keras

    import keras_wake as kw

    class Best(keras.callbacks.ModelCheckpoint):
        """`ModelCheckpoint` for a value that not every epoch has."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if self.monitor in (logs or {}):
                super().on_epoch_end(epoch, logs)

    class Keep(keras.callbacks.Callback):
        """Writes the record after every epoch."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._begin = time.time()
            # Epochs that were not finished, or not backed up, come again.
            del record.content["epochs"][epoch:]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            row = {key: float(value) for key, value in (logs or {}).items()}
            record.content["epochs"].append({"epoch": epoch + 1, **row})
            record.content["seconds"] += time.time() - self._begin
            record.write()

    def best(name: str) -> Any:
        known = [e[name] for e in record.content["epochs"] if name in e]
        return Best(
            str(args.run_dir / f"best_{name}.weights.h5"),
            monitor=name,
            mode="max",
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=max(known, default=None),
        )

    callbacks = [kw.CrossClassAttribution()]
    if args.method == "wake":
        callbacks.append(kw.EMATeacher(args.decay, warmup=args.ema_warmup))
        callbacks.append(best("val_teacher_robust_accuracy"))
    callbacks += [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: splits.set_epoch(epoch)
        ),
        best("val_robust_accuracy"),
        Keep(),
        keras.callbacks.BackupAndRestore(
            str(args.run_dir / "backup"), delete_checkpoint=False
        ),
    ]
    model.fit(
        splits.train,
        epochs=args.epochs,
        validation_data=splits.validation,
        validation_freq=args.eval_every,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )


def report(args: argparse.Namespace, model: Any, splits: Any, record: Record):
    """Evaluates best and last epoch on the test images, draws and saves."""
    import keras_wake as kw

    rows = []
    matrices = {}
    has_teacher = model.teacher_in_use

    def measure(which: str, networks: tuple[str, ...]) -> None:
        attribution = kw.CrossClassAttribution()
        logs = model.evaluate(
            splits.test,
            callbacks=[attribution],
            return_dict=True,
            verbose=1 if sys.stdout.isatty() else 0,
        )
        for network in networks:
            prefix = "teacher_" if network == "teacher" else ""
            rows.append(
                {
                    "epoch": which,
                    "network": network,
                    "clean": logs[f"{prefix}accuracy"],
                    "robust": logs[f"{prefix}robust_accuracy"],
                    "cas": logs[f"{prefix}cas"],
                }
            )
            matrices[which, network] = getattr(
                attribution, f"{prefix}correlation"
            )

    print("Evaluating on the test images ...", flush=True)
    networks = ("student", "teacher") if has_teacher else ("student",)
    measure("last", networks)
    model.robust_classifier.save(args.run_dir / "robust.keras")
    last = model.get_weights()
    for network in networks:
        prefix = "teacher_" if network == "teacher" else ""
        weights = args.run_dir / f"best_val_{prefix}robust_accuracy.weights.h5"
        if weights.exists():
            model.load_weights(weights)
            measure("best", (network,))
    model.set_weights(last)
    rows.sort(key=lambda row: (row["epoch"], row["network"]))
    record.content["table"] = rows
    record.write()
    print_table(rows, splits)
    try:
        draw(args, model, splits, record, matrices)
    except Exception:
        # What has been computed is kept; a figure is not worth a run.
        traceback.print_exc()
        print("Not all figures could be drawn; everything else is complete.")


def print_table(rows: list[dict[str, Any]], splits: Any) -> None:
    """The table that a run ends with."""
    print(
        f"\nTest set of {splits.test_size} images; the best epoch was chosen "
        f"on {splits.validation_size} held-out training images."
    )
    print(f"{'epoch':6} {'network':8} {'clean':>7} {'robust':>7} {'CAS':>6}")
    for row in rows:
        print(
            f"{row['epoch']:6} {row['network']:8} {row['clean']:7.1%} "
            f"{row['robust']:7.1%} {row['cas']:6.1f}"
        )


def draw(args, model, splits, record, matrices) -> None:
    """Figures of a run: matrices, curves, adversarial examples."""
    import numpy as np

    import keras_wake as kw

    for (which, network), matrix in matrices.items():
        kw.visualization.plot_correlation_matrix(
            matrix,
            class_names=splits.class_names,
            title=f"{network}, {which} epoch, "
            f"CAS {kw.attribution.cas(matrix):.1f}",
            path=args.run_dir / f"correlation_{which}_{network}.png",
        )
    schedule = model.schedule
    epochs = record.content["epochs"]
    columns = {key: None for epoch in epochs for key in epoch}
    history = {key: [e.get(key) for e in epochs] for key in columns}
    history["epochs"] = history.pop("epoch")
    kw.visualization.plot_history(
        history,
        start_epoch=None if schedule is None else schedule.start_epoch,
        end_epoch=None if schedule is None else schedule.end_epoch,
        path=args.run_dir / "curves.png",
    )
    x, y = splits.arrays("test")
    x, y = x[:6], y[:6]
    network = model.robust_classifier
    adversarial = np.asarray(model.eval_attack(network, x, y, seed=0))
    kw.visualization.plot_adversarial_examples(
        x,
        adversarial,
        y,
        np.asarray(network(x, training=False)),
        np.asarray(network(adversarial, training=False)),
        class_names=splits.class_names,
        path=args.run_dir / "adversarial_examples.png",
    )


def main(description: str, defaults: dict[str, Any], argv: Any = None) -> None:
    """Parses the flags, trains or continues, and reports."""
    parser, args = parse_args(description, defaults, argv)
    record_path = args.run_dir / "record.json"
    if record_path.exists() and not args.resume:
        parser.error(
            f"--run-dir {args.run_dir} already holds a run. Continue it with "
            "--resume, or choose another folder."
        )
    if args.resume and not record_path.exists():
        parser.error(f"--resume: there is no run in {args.run_dir}.")

    import tensorflow as tf

    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)

    import keras_wake as kw

    try:
        validation = args.validation
        splits = kw.datasets.load(
            args.dataset,
            data_dir=args.data_dir,
            batch_size=args.batch_size,
            validation_split=int(validation) if validation >= 1 else validation,
            limit=args.limit,
            test_limit=args.test_limit,
            augment=args.augment,
            seed=args.seed,
        )
        record = Record(args.run_dir, settings_of(args))
        if args.resume:
            record.load()
        args.run_dir.mkdir(parents=True, exist_ok=True)
        model = build(args, splits)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    record.write()
    print(
        f"{args.method} on {args.dataset}: {splits.train_size} training, "
        f"{splits.validation_size} validation and {splits.test_size} test "
        f"images; {model.classifier.count_params():,} parameters; "
        f"writing to {args.run_dir}",
        flush=True,
    )
    train(args, model, splits, record)
    report(args, model, splits, record)
    print(f"\nEverything is in {args.run_dir}; robust.keras is the network.")

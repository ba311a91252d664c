"""What a run ends with: table, figures and the network."""

import pathlib
import sys
import traceback
from typing import Any

from keras.ops import convert_to_numpy as to_numpy

import keras_wake as kw
from runner.record import attempt
from runner.record import Record
from runner.record import write_aside
from runner.training import best_path

# (epoch, network): the class-wise correlation matrix.
Matrices = dict[tuple[str, str], Any]


def report(
    run_dir: pathlib.Path,
    model: Any,
    splits: Any,
    record: Record,
    history: list[dict[str, Any]],
) -> bool:
    """Evaluates best and last epoch on the test images, draws and saves.

    Args:
        run_dir: Folder of the run.
        model: The trained `WakeModel`.
        splits: Its images.
        record: Of the run; gets the table.
        history: Of `CrossClassAttribution`, the matrices of the validations.

    Returns:
        Whether network and record could be written.
    """
    print("Evaluating on the test images ...", flush=True)
    saved = not model.is_chief or attempt(
        "The network",
        write_aside,
        run_dir / "robust.keras",
        model.robust_classifier.save,
    )
    networks = ("student", "teacher") if model.teacher_in_use else ("student",)
    rows, matrices = [], {}

    def measure(epoch: str, networks: tuple[str, ...]) -> None:
        attribution = kw.CrossClassAttribution()
        logs = model.evaluate(
            splits.test,
            callbacks=[attribution],
            return_dict=True,
            verbose=1 if sys.stdout.isatty() else 0,
        )
        for network in networks:
            prefix = _prefix(network)
            row = {
                "clean": logs[f"{prefix}accuracy"],
                "robust": logs[f"{prefix}robust_accuracy"],
                "cas": logs[f"{prefix}cas"],
            }
            rows.append({"epoch": epoch, "network": network, **row})
            matrices[epoch, network] = getattr(
                attribution, f"{prefix}correlation"
            )

    measure("last", networks)
    last = model.get_weights()
    for network in networks:
        path = best_path(run_dir, f"val_{_prefix(network)}robust_accuracy")
        if path.exists():
            model.load_weights(path)
            measure("best", (network,))
    model.set_weights(last)
    rows.sort(key=lambda row: (row["epoch"], row["network"]))
    record.content["table"] = rows
    saved &= attempt("The record", record.write)
    pictures = attacked(model, splits)
    classes = kw.attribution.class_report(
        model.robust_classifier,
        splits.arrays("test"),
        model.eval_attack,
        splits.class_names,
    )
    if not model.is_chief:
        return saved
    print_table(rows, splits)
    attempt(
        "The class report",
        write_aside,
        run_dir / "classes.json",
        lambda path: path.write_text(classes.to_json(indent=1)),
    )
    try:
        draw(run_dir, model, splits, record, matrices, pictures)
        draw_classes(run_dir, classes)
        draw_epochs(run_dir, model, splits, record, history)
    except Exception:
        # What has been computed is kept; a figure is not worth a run.
        traceback.print_exc()
        print("Not all figures could be drawn; everything else is complete.")
    return saved


def attacked(model: Any, splits: Any) -> tuple[Any, ...]:
    """Six images, attacked; their labels, and logits before and after."""
    x, y = splits.arrays("test")
    x, y = x[:6], y[:6]
    network = model.robust_classifier
    adversarial = to_numpy(model.eval_attack(network, x, y, seed=0))
    logits = [
        to_numpy(network(images, training=False)) for images in (x, adversarial)
    ]
    return x, adversarial, y, *logits


def _prefix(network: str) -> str:
    return "teacher_" if network == "teacher" else ""


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


def draw(
    run_dir: pathlib.Path,
    model: Any,
    splits: Any,
    record: Record,
    matrices: Matrices,
    pictures: tuple[Any, ...],
) -> None:
    """Figures of a run: curves, matrices, adversarial examples."""
    schedule = model.schedule
    kw.visualization.plot_history(
        record.columns(),
        start_epoch=None if schedule is None else schedule.start_epoch,
        end_epoch=None if schedule is None else schedule.end_epoch,
        path=run_dir / "curves.png",
    )
    for (epoch, network), matrix in matrices.items():
        kw.visualization.plot_correlation_matrix(
            matrix,
            class_names=splits.class_names,
            title=f"{network}, {epoch} epoch, "
            f"CAS {kw.attribution.cas(matrix):.1f}",
            path=run_dir / f"correlation_{epoch}_{network}.png",
        )
    kw.visualization.plot_adversarial_examples(
        *pictures,
        class_names=splits.class_names,
        path=run_dir / "adversarial_examples.png",
    )


def draw_classes(run_dir: pathlib.Path, classes: Any) -> None:
    """Figures of what the network confuses, and of the images it does."""
    figures = kw.visualization
    figures.plot_class_report(classes, path=run_dir / "classes.png")
    if any(any(pair.examples) for pair in classes.pairs[:5]):
        figures.plot_shared_pairs(classes, path=run_dir / "shared_pairs.png")


def draw_epochs(
    run_dir: pathlib.Path,
    model: Any,
    splits: Any,
    record: Record,
    history: list[dict[str, Any]],
) -> None:
    """The student's matrices over the epochs, and what the last one lost."""
    key = "val_robust_accuracy"
    robust = {
        row["epoch"]: row[key]
        for row in record.content["epochs"]
        if row.get(key) is not None
    }
    matrices = {entry["epoch"]: entry["correlation"] for entry in history}
    epochs = [epoch for epoch in matrices if epoch in robust]
    if not epochs:
        return
    best = max(epochs, key=robust.__getitem__)
    chosen = chosen_epochs(epochs, best)
    # On clean images classes share little.
    clean = "adversarial" not in model.objective.inputs
    kw.visualization.plot_correlation_strip(
        {epoch: matrices[epoch] for epoch in chosen},
        {epoch: robust[epoch] for epoch in chosen},
        class_names=splits.class_names,
        vmax=0.5 if clean else 1.0,
        path=run_dir / "correlation_epochs.png",
    )
    if best != epochs[-1]:
        kw.visualization.plot_correlation_difference(
            matrices[best],
            matrices[epochs[-1]],
            class_names=splits.class_names,
            title=f"epoch {best} − epoch {epochs[-1]}",
            path=run_dir / "correlation_difference.png",
        )


def chosen_epochs(epochs: list[int], best: int, count: int = 5) -> list[int]:
    """At most so many of the epochs: first, best, last, and some between."""
    chosen = {epochs[0], best, epochs[-1]}
    for part in range(1, count):
        if len(chosen) == min(count, len(epochs)):
            break
        chosen.add(epochs[part * (len(epochs) - 1) // count])
    return sorted(chosen)

"""The end of a run: its table, figures and networks."""

import argparse
import pathlib
import sys
from typing import Any

from keras.ops import convert_to_numpy as to_numpy

import keras_wake as kw
from runner.figures import Figures
from runner.figures import Matrices
from runner.methods import TEACHER_BEST_BY
from runner.parts import Parts
from runner.record import attempt
from runner.record import Record
from runner.record import write_aside
from runner.record import write_text
from runner.training import best_path


def report(
    args: argparse.Namespace,
    parts: Parts,
    model: Any,
    splits: Any,
    record: Record,
    history: list[dict[str, Any]],
) -> bool:
    """Evaluates best and last epoch on the test images, draws and saves.

    `history` is that of `CrossClassAttribution`, with the matrices of the
    validations. Returns whether networks and record could be written.
    """
    if model.is_chief:
        print("Evaluating on the test images ...", flush=True)
    saved = save(model, model.robust_classifier, args.run_dir, "robust.keras")
    networks = ["student", "teacher"] if model.teacher_in_use else ["student"]
    clean = parts.method.on_clean_images
    rows, matrices = measure(model, splits, "last", networks, clean)
    last = model.get_weights()
    keys = {"student": parts.method.best_by, "teacher": TEACHER_BEST_BY}
    for network in networks:
        path = best_path(args.run_dir, keys[network])
        if not path.exists():
            continue
        model.load_weights(path)
        found = measure(model, splits, "best", [network], clean)
        rows += found[0]
        matrices |= found[1]
        if network == networks[-1]:
            best = network_of(model, network)
            saved &= save(model, best, args.run_dir, "best.keras")
    model.set_weights(last)
    rows.sort(key=lambda row: (row["epoch"], row["network"]))
    record.content["table"] = rows
    saved &= attempt("The record", record.write)
    pictures = attacked(model, splits)
    classes = kw.attribution.class_report(
        model.robust_classifier,
        splits.arrays("test"),
        None if clean else model.eval_attack,
        splits.class_names,
    )
    if not model.is_chief:
        return saved
    print_table(rows, splits, clean)
    print_what_never_began(args, parts, model, record)
    path, text = args.run_dir / "classes.json", classes.to_json(indent=1)
    attempt("The class report", write_text, path, text)
    figures = Figures(args, splits)
    figures.whole_run(record, parts, matrices, pictures, classes)
    figures.epochs(record, history)
    return saved


def save(model: Any, network: Any, folder: pathlib.Path, name: str) -> bool:
    """Has the chief write a network; returns whether it worked."""
    return not model.is_chief or attempt(
        f"The network {name}", write_aside, folder / name, network.save
    )


def network_of(model: Any, name: str) -> Any:
    """Student or teacher of a `WakeModel`."""
    return model.teacher if name == "teacher" else model.classifier


def measure(
    model: Any, splits: Any, epoch: str, networks: list[str], clean: bool
) -> tuple[list[dict[str, Any]], Matrices]:
    """Rows of the final table, and matrices, for the weights as they are.

    CAS is that of clean images if `clean`, else that of attacked ones.
    """
    attribution = kw.CrossClassAttribution()
    logs = model.evaluate(
        splits.test,
        callbacks=[] if clean else [attribution],
        return_dict=True,
        verbose=int(sys.stdout.isatty() and model.is_chief),
    )
    rows, matrices = [], {}
    for network in networks:
        prefix = "teacher_" if network == "teacher" else ""
        if clean:
            matrix = kw.attribution.correlation_matrix(
                network_of(model, network), splits.arrays("test")
            )
        else:
            matrix = getattr(attribution, f"{prefix}correlation")
        rows.append(
            {
                "epoch": epoch,
                "network": network,
                "clean": logs[f"{prefix}accuracy"],
                "robust": logs[f"{prefix}robust_accuracy"],
                "cas": kw.attribution.cas(matrix),
                "cas_images": "clean" if clean else "adversarial",
            }
        )
        matrices[epoch, network] = matrix
    return rows, matrices


def attacked(model: Any, splits: Any) -> tuple[Any, ...]:
    """Six images before and after an attack, their labels and both logits."""
    x, y = splits.arrays("test")
    x, y = x[:6], y[:6]
    network = model.robust_classifier
    adversarial = to_numpy(model.eval_attack(network, x, y, seed=0))
    logits = [
        to_numpy(network(images, training=False)) for images in (x, adversarial)
    ]
    return x, adversarial, y, *logits


def print_table(rows: list[dict[str, Any]], splits: Any, clean: bool) -> None:
    """The table that a run ends with."""
    print(
        f"\nTest set of {splits.test_size} images; the best epoch was chosen "
        f"on {splits.validation_size} held-out training images."
        f"{' CAS is that of clean images.' * clean}"
    )
    print(f"{'epoch':6} {'network':8} {'clean':>7} {'robust':>7} {'CAS':>6}")
    for row in rows:
        print(
            f"{row['epoch']:6} {row['network']:8} {row['clean']:7.1%} "
            f"{row['robust']:7.1%} {row['cas']:6.1f}"
        )


def print_what_never_began(
    args: argparse.Namespace, parts: Parts, model: Any, record: Record
) -> None:
    """Prints a note if the run was too short for its method."""
    epochs = record.content["epochs"]
    teacher, ramp = parts.method.teacher, parts.ramp
    distils = teacher in ("wake", "adaptive")
    if teacher == "kdswa" and not model.teacher_in_use:
        what, student = "Averaging", "The network is the student."
        why = f"its first epoch is {args.swa_start}"
    elif distils and not any(row.get("kd_weight") for row in epochs):
        what = "Distillation"
        student = "The student did not learn from its average."
        why = "no epoch t_s was found"
        if ramp is not None:
            why = f"the ramp begins after epoch t_s = {ramp.start_epoch}"
    else:
        return
    lasted = f"the run has {len(epochs)} epochs"
    print(f"\n{what} never began: {why}, and {lasted}. {student}")

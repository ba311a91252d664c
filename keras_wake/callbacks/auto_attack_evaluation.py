"""AutoAttack on a small subset at chosen epochs, during training."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake.attacks import Attack
from keras_wake.checkpoint import files
from keras_wake.data.batches import check_reusable
from keras_wake.data.batches import checked_batch
from keras_wake.data.batches import iterate_batches
from keras_wake.data.classifier import image_shape
from keras_wake.evaluation import checks as reliability
from keras_wake.evaluation import ReliabilityWarning
from keras_wake.evaluation import RobustnessReport
from keras_wake.evaluation.attack_lists import attack_list
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import evaluate
from keras_wake.evaluation.evaluate import Options
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json
from keras_wake.wake_model import WakeModel


class AutoAttackEvaluation(keras.callbacks.Callback):
    """Runs AutoAttack on a few images after the first and every n-th epoch.

    `evaluate` runs PGD on all validation images each epoch. PGD flatters a
    network that has learnt to mask its gradients; this callback shows that
    during training. It attacks the student and, where a teacher is in use,
    the teacher. The logs get `autoattack_accuracy` and
    `teacher_autoattack_accuracy`, for the callbacks that come after this one.
    In the epochs between, the logs repeat the newest numbers: `CSVLogger`
    takes its columns from the first epoch, and `ModelCheckpoint` would save in
    every epoch without a number. `EarlyStopping` and `ReduceLROnPlateau` count
    epochs: give them a `patience` of several times `every`.

    `report` and `teacher_report` are the newest `RobustnessReport`, and
    `history` is a list of dictionaries with `epoch` (counted from 1),
    `autoattack_accuracy`, with a teacher `teacher_autoattack_accuracy`, and
    under `report` and `teacher_report` what their `to_dict` gives.

    The attacks are compiled at the first evaluation of a `fit`, for all of
    its evaluations. The first time that a reliability check finds something in
    a network, it is a warning. An evaluation that fails ends the run if it is
    the first one; later, it is a warning.

    Args:
        data: Pair of arrays (x, y), or anything that yields such batches.
            Use images that are not trained on.
        every: Evaluate after every so many epochs, and after the first one.
            Defaults to `10`.
        samples: How many images, the first ones of the data. Defaults to
            `128`.
        version: `"standard"` or `"rand"`. Defaults to `"standard"`.
        attacks: List of attacks to run instead. Defaults to `None`.
        epsilon: Radius. Defaults to `None`: that of the model's
            `eval_attack`.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`.
        checks: Whether to look for signs that the number is too high.
            Defaults to `True`.
        path: Folder for the reports as JSON and as figures,
            `autoattack_epoch_0010.json` and `.png`. Defaults to `None`:
            none. A file that cannot be written is a warning, never the end
            of a run.
        class_names: Names of the classes for the reports.
        verbose: As for `autoattack`. Defaults to `0`.

    Raises:
        ValueError: For numbers out of range, or, in `fit`, for data that
            cannot be right or attacks that contradict the arguments.

    Example:

    ```python
    robustness = keras_wake.callbacks.AutoAttackEvaluation(
        (x_val, y_val), every=10, samples=100
    )
    model.fit(train, epochs=60, callbacks=[robustness])
    print(robustness.report)
    ```
    """

    def __init__(
        self,
        data: Dataset,
        every: int = 10,
        samples: int = 128,
        version: str = "standard",
        attacks: Sequence[Attack] | None = None,
        epsilon: float | None = None,
        batch_size: int = 128,
        seed: int = 0,
        checks: bool = True,
        path: str | os.PathLike | None = None,
        class_names: Sequence[str] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__()
        check_reusable("AutoAttackEvaluation", data)
        self.data = data
        self.every = validate.integer(1, every=every)
        self.samples = validate.integer(1, samples=samples)
        self.version = version
        self.attacks = attacks
        self.epsilon = epsilon
        self.batch_size = validate.integer(1, batch_size=batch_size)
        self.seed = validate.seed(seed=seed)
        self.checks = validate.boolean(checks=checks)
        self.path = path
        if path is not None:
            files.check_folder(path)
        if class_names is not None:
            class_names = validate.list_of_names(class_names)
        self.class_names = class_names
        self.verbose = validate.one_of((0, 1, 2), verbose=verbose)
        if epsilon is not None:
            validate.not_negative(epsilon=epsilon)
        # Where the bounds are those of the model, `set_model` compares epsilon
        # with them.
        known = None if attacks is None else epsilon
        attack_list(version, attacks, None, known, None)
        self._images: tuple[Array, Array] | None = None
        self._forget()

    def _forget(self) -> None:
        self.history: list[dict[str, Any]] = []
        self._compiled: dict[str, CompiledClassifier] = {}
        self.report: RobustnessReport | None = None
        self.teacher_report: RobustnessReport | None = None
        self._warned: set[str] = set()

    def set_model(self, model: keras.Model) -> None:
        """Takes the threat model of `eval_attack`."""
        super().set_model(model)
        if not isinstance(model, WakeModel):
            raise TypeError(
                "`AutoAttackEvaluation` works with `keras_wake.WakeModel`. "
                f"Received: a model of type {type(model).__name__}. For any "
                "other model, call `keras_wake.evaluation.autoattack`."
            )
        self._attack_list()

    def on_train_begin(self, logs: Json = None) -> None:
        """Takes the images and starts a new history."""
        self._forget()
        if self.path is not None and self.model.is_chief:
            files.make_folder(self.path)
        self._images = first_images(self.data, self.samples)
        # What the first evaluation would refuse, now, and not after epochs.
        num_classes = self.model.num_classes
        validate.names_of_classes(self.class_names, num_classes)
        self._listed, self._list_name = self._attack_list()
        attacks = list(self._listed.values())
        checked_batch(
            *self._images,
            num_classes,
            attacks[0].bounds,
            "of `AutoAttackEvaluation`",
            image_shape(self.model.classifier),
        )
        for attack in attacks:
            attack.check_image_shape(self._images[0].shape[1:])

    def on_epoch_end(self, epoch: int, logs: Json = None) -> None:
        """Evaluates, where it is time to, and logs the newest numbers."""
        if not self.history or (epoch + 1) % self.every == 0:
            self._measure(epoch + 1)
        if logs is not None and self.history:
            newest = self.history[-1].items()
            logs.update({k: v for k, v in newest if k.endswith("_accuracy")})

    def _measure(self, epoch: int) -> None:
        self.model.sync_variables()
        networks = {"": self.model.classifier}
        if self.model.teacher_in_use:
            networks["teacher_"] = self.model.teacher
        try:
            reports = {
                prefix: self._evaluate(prefix, network)
                for prefix, network in networks.items()
            }
        except Exception as error:
            if not self.history:
                raise
            warnings.warn(
                f"The evaluation after epoch {epoch} has failed: {error!r}. "
                "Training goes on.",
                stacklevel=3,
            )
            return
        self.report = reports[""]
        self.teacher_report = reports.get("teacher_")
        entry: dict[str, Any] = {"epoch": epoch}
        for prefix, report in reports.items():
            entry[f"{prefix}autoattack_accuracy"] = report.robust_accuracy
            entry[f"{prefix}report"] = report.to_dict()
        self.history.append(entry)
        if self.path is not None and self.model.is_chief:
            self._write(epoch)
        # Last, as a warning may have been made an error.
        for prefix, report in reports.items():
            self._warn("teacher" if prefix else "student", report)

    def get_state(self) -> Json:
        """What `BackupAndRestore` keeps."""
        return {"history": self.history, "warned": sorted(self._warned)}

    def set_state(self, state: Json) -> None:
        """Goes on from what `get_state` has returned."""
        self.history = list(state["history"])
        self._warned = set(state["warned"])
        last = self.history[-1] if self.history else {}
        self.report = _report_of(last.get("report"))
        self.teacher_report = _report_of(last.get("teacher_report"))

    def _attack_list(self) -> tuple[dict[str, Attack], str]:
        """The attacks that will run, checked, and what their list is called.

        Norm, epsilon and bounds are those of `attacks`, else of the model.
        """
        if self.attacks is not None:
            return attack_list(
                self.version, self.attacks, None, self.epsilon, None
            )
        usual = self.model.eval_attack
        epsilon = usual.epsilon if self.epsilon is None else self.epsilon
        return attack_list(
            self.version, None, usual.norm, epsilon, usual.bounds
        )

    def _evaluate(self, prefix: str, network: keras.Model) -> RobustnessReport:
        compiled = self._compiled.setdefault(
            prefix, CompiledClassifier(network, self.batch_size)
        )
        options = Options(
            version=self._list_name,
            seed=self.seed,
            class_names=self.class_names,
            checks=self.checks,
            verbose=self.verbose,
        )
        with warnings.catch_warnings():
            # Told later, once for each code and network.
            warnings.simplefilter("ignore", ReliabilityWarning)
            return evaluate(compiled, self._images, self._listed, options)

    def _warn(self, name: str, report: RobustnessReport) -> None:
        new = [
            (code, f"Of the {name}: {message}")
            for code, message in report.findings
            if f"{name} {code}" not in self._warned
        ]
        self._warned.update(f"{name} {code}" for code, _ in new)
        reliability.warn(new, None, stacklevel=4)

    def _write(self, epoch: int) -> None:
        """Writes the reports as JSON and as figures."""
        from keras_wake import visualization

        folder = pathlib.Path(os.fspath(self.path or ""))
        reports = {"": self.report, "teacher_": self.teacher_report}
        for prefix, report in reports.items():
            if report is None:
                continue
            name = f"{prefix}autoattack_epoch_{epoch:04d}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with files.written_aside(folder / f"{name}.json") as aside:
                    aside.write_text(report.to_json(indent=1) + "\n")
                visualization.plot_robustness_report(
                    report, path=folder / f"{name}.png"
                )
            except Exception as error:
                warnings.warn(
                    f"The report {name} could not be written: {error!r}. "
                    "Training goes on.",
                    stacklevel=2,
                )


def first_images(data: Dataset, count: int) -> tuple[Array, Array]:
    """The first images and labels of data, as arrays."""
    images: list[Array] = []
    labels: list[Array] = []
    for x, y in iterate_batches(data, count):
        images.append(ops.convert_to_numpy(x))
        labels.append(ops.convert_to_numpy(y))
        if sum(map(len, images)) >= count:
            break
    return np.concatenate(images)[:count], np.concatenate(labels)[:count]


def _report_of(found: Json) -> RobustnessReport | None:
    return None if found is None else RobustnessReport.from_dict(found)

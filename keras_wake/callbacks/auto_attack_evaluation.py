"""AutoAttack on a small subset at chosen epochs, during training."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_wake import visualization
from keras_wake.attacks import Attack
from keras_wake.callbacks._base import error_as_warning
from keras_wake.callbacks._base import first_images
from keras_wake.callbacks._base import ReportingCallback
from keras_wake.checkpoint.files import atomic_write
from keras_wake.data.batches import checked_batch
from keras_wake.data.classifier import image_shape
from keras_wake.evaluation import reliability
from keras_wake.evaluation import ReliabilityWarning
from keras_wake.evaluation import RobustnessReport
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import evaluate
from keras_wake.evaluation.robustness import attack_list
from keras_wake.utils import validate
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Logs
from keras_wake.utils.types import State


class AutoAttackEvaluation(ReportingCallback):
    """Runs AutoAttack on a few images after the first and every n-th epoch.

    PGD, which `evaluate` runs each epoch, flatters a network that has learnt
    to mask its gradients; this callback shows that during training. It
    attacks the student and, where a teacher is in use, the teacher. The logs
    get `autoattack_accuracy` and `teacher_autoattack_accuracy`, for the
    callbacks that come after this one. In the epochs between, they repeat the
    newest numbers, as `CSVLogger` and `ModelCheckpoint` need. `EarlyStopping`
    and `ReduceLROnPlateau` count epochs: give them a `patience` of several
    times `every`.

    `report` and `teacher_report` are the newest `RobustnessReport`, and
    `history` is a list of dictionaries with `epoch` (counted from 1),
    `autoattack_accuracy`, with a teacher `teacher_autoattack_accuracy`, and
    under `report` and `teacher_report` what their `to_dict` gives.

    What a reliability check finds in a network is a warning the first time.
    An evaluation that fails ends the run if it is the first one; later, it is
    a warning.

    Args:
        data: Pair of arrays (x, y), or anything that yields such batches.
            Use images that are not trained on.
        every: After how many epochs, and after the first. Defaults to `10`.
        samples: How many images, the first ones. Defaults to `128`.
        version: `"standard"` or `"rand"`. Defaults to `"standard"`.
        attacks: List of attacks to run instead. Defaults to `None`.
        epsilon: Radius. Defaults to `None`: that of `eval_attack`.
        batch_size: Most images of a batch. Defaults to `128`.
        seed: Integer seed of all random numbers. Defaults to `0`.
        checks: Whether to run the reliability checks. Defaults to `True`.
        path: Folder for the reports as JSON and as figures,
            `autoattack_epoch_0010.json` and `.png`. Defaults to `None`:
            none. A file that cannot be written is a warning.
        class_names: Names of the classes for the reports.
        verbose: As for `autoattack`. Defaults to `0`.

    Raises:
        ValueError: For an argument out of range; in `fit`, for data that
            cannot be right or attacks that contradict the arguments.

    Example:

    ```python
    robustness = kw.callbacks.AutoAttackEvaluation(
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
        super().__init__(data, every, path, class_names)
        self.samples = validate.integer(1, samples=samples)
        self.version = version
        self.attacks = attacks
        self.epsilon = epsilon
        if epsilon is not None:
            validate.not_negative(epsilon=epsilon)
        self.batch_size = validate.integer(1, batch_size=batch_size)
        self.seed = validate.seed(seed=seed)
        self.checks = validate.boolean(checks=checks)
        self.verbose = validate.one_of((0, 1, 2), verbose=verbose)
        # An epsilon that is not compared with that of `attacks` is in the
        # units of the model: `fit` compares it with the bounds.
        known = None if attacks is None else epsilon
        attack_list(version, attacks, None, known, None)
        self._forget()

    def _forget(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.report: RobustnessReport | None = None
        self.teacher_report: RobustnessReport | None = None
        self._compiled: dict[str, CompiledClassifier] = {}
        self._warned: set[str] = set()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts a new history; checks what an evaluation would refuse."""
        super().on_train_begin(logs)
        self._forget()
        norm, epsilon, bounds = None, self.epsilon, None
        if self.attacks is None:
            usual = self.model.eval_attack
            norm, bounds = usual.norm, usual.bounds
            epsilon = usual.epsilon if epsilon is None else epsilon
        self._listed, self._list_name = attack_list(
            self.version, self.attacks, norm, epsilon, bounds
        )
        self._images = first_images(self.data, self.samples)
        attacks = list(self._listed.values())
        checked_batch(
            *self._images,
            self.model.num_classes,
            attacks[0].bounds,
            "of `AutoAttackEvaluation`",
            image_shape(self.model.classifier),
        )
        for attack in attacks:
            attack.check_image_shape(self._images[0].shape[1:])

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Evaluates, where it is time to, and logs the newest numbers."""
        if not self.history or (epoch + 1) % self.every == 0:
            self._measure(epoch + 1)
        if logs is not None and self.history:
            newest = self.history[-1].items()
            logs.update({k: v for k, v in newest if k.endswith("_accuracy")})

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps."""
        return {"history": self.history, "warned": sorted(self._warned)}

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""
        self.history = list(state["history"])
        self._warned = set(state["warned"])
        newest = self.history[-1] if self.history else {}
        self.report, self.teacher_report = (
            RobustnessReport.from_dict(newest[name]) if name in newest else None
            for name in ("report", "teacher_report")
        )

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
        self.report, self.teacher_report = reports[""], reports.get("teacher_")
        entry: dict[str, Any] = {"epoch": epoch}
        for prefix, report in reports.items():
            entry[f"{prefix}autoattack_accuracy"] = report.robust_accuracy
            entry[f"{prefix}report"] = report.to_dict()
        self.history.append(entry)
        # Last, as a warning may have been made an error.
        for prefix, report in reports.items():
            if self.path is not None and self.model.is_chief:
                name = f"{prefix}autoattack_epoch_{epoch:04d}"
                self._write(pathlib.Path(self.path) / name, report)
            self._warn("teacher" if prefix else "student", report)

    def _evaluate(self, prefix: str, network: keras.Model) -> RobustnessReport:
        compiled = self._compiled.setdefault(
            prefix, CompiledClassifier(network, self.batch_size)
        )
        with warnings.catch_warnings():
            # Told later, once for each code and network.
            warnings.simplefilter("ignore", ReliabilityWarning)
            return evaluate(
                compiled,
                self._images,
                self._listed,
                version=self._list_name,
                seed=self.seed,
                class_names=self.class_names,
                checks=self.checks,
                verbose=self.verbose,
            )

    def _warn(self, name: str, report: RobustnessReport) -> None:
        new = [
            (code, f"Of the {name}: {message}")
            for code, message in report.findings
            if f"{name} {code}" not in self._warned
        ]
        self._warned.update(f"{name} {code}" for code, _ in new)
        reliability.warn(new, None, stacklevel=4)

    def _write(self, stem: pathlib.Path, report: RobustnessReport) -> None:
        """Writes a report as JSON and as a figure."""
        with error_as_warning(f"The report {stem.name} could not be written"):
            with atomic_write(f"{stem}.json") as aside:
                aside.write_text(report.to_json(indent=1) + "\n")
            visualization.plot_robustness_report(report, path=f"{stem}.png")
